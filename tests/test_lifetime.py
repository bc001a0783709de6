"""No process outlives its starter, whatever ends that, and however busy the process is with ignoring signals."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

STARTER = """
import os, subprocess, sys, time
from multiprocessing import get_context
from vlp_bench.lifetime import begin_loader, bound, interruptible

DEAF = "import signal, time; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 10, 12, 15)]; print(1, flush=True); time.sleep(60)"

def load(said):
    begin_loader(0)
    said.put(os.getpid())
    time.sleep(60)

with interruptible():
    command = subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE, preexec_fn=bound())
    command.stdout.readline()
    context = get_context("fork")
    said = context.Queue()
    loader = context.Process(target=load, args=(said,), daemon=False)
    loader.start()
    try:
        print(command.pid, said.get(), flush=True)
        time.sleep(60)
    finally:
        os._exit(3)  # without ending anybody
"""  # noqa: E501

KEPT = """
import signal, sys
from torch.utils.data import DataLoader
from vlp_bench.lifetime import Interrupted, begin_loader, interruptible

batches = iter(DataLoader(range(64), num_workers=2, worker_init_fn=begin_loader))
next(batches)
try:
    with interruptible():
        signal.raise_signal(getattr(signal, sys.argv[1]))
except Interrupted as reason:
    sys.kept = reason, batches  # as a traceback keeps them
sys.exit(3)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")


def gone(process: int) -> bool:
    """Whether it has ended; one that nobody has waited for is a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_for_end(processes: list[int]) -> list[int]:
    """Those that are still there after a minute; they are killed. What has just begun ends when it is up."""
    until = time.monotonic() + 60
    while time.monotonic() < until and not all(map(gone, processes)):
        time.sleep(0.05)
    left = [process for process in processes if not gone(process)]
    for process in left:
        os.kill(process, signal.SIGKILL)
    return left


@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGUSR1))
def test_children_that_ignore_every_signal_end_with_their_starter(number):
    with subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE, text=True) as starter:
        children = [int(word) for word in starter.stdout.readline().split()]
        assert len(children) == 2
        assert not any(map(gone, children))
        starter.send_signal(number)
        assert starter.wait() == (-number if number == signal.SIGKILL else 3)
    assert wait_for_end(children) == []


SLOW = """
import os, sys, time
from multiprocessing import get_context
from vlp_bench.lifetime import begin_as

if __name__ == "__main__":
    child = get_context("spawn").Process(target=begin_as, args=("takes_long", "begin"))
    child.start()
    print(child.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGKILL))
def test_a_spawned_process_that_still_imports_ends_with_its_starter(tmp_path, number):
    (tmp_path / "takes_long.py").write_text("import time\nopen('importing', 'w').close()\ntime.sleep(600)\n")
    (tmp_path / "starter.py").write_text(SLOW)
    words = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[1]}"}}
    with subprocess.Popen([sys.executable, "starter.py"], stdout=subprocess.PIPE, text=True, **words) as starter:
        child = int(starter.stdout.readline())
        until = time.monotonic() + 60
        while not (tmp_path / "importing").exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        assert not gone(child)
        starter.send_signal(number)
    assert wait_for_end([child]) == []


def descendants(root: int) -> list[int]:
    """Of a process, those it has started, those they have started, and so on."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = [root]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found[1:]


COMMANDS = {
    "compare": ["vlp_bench.commands.compare", "workers=2", "seed=0,1"],
    "sweep": ["vlp_bench", "-m", "hydra.launcher.n_parallel=2", "seed=0,1"],
    "ddp": ["vlp_bench", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.batch_size=4"],
}


@pytest.mark.slow
@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGINT, signal.SIGKILL))
@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_left_of_a_command_that_is_ended_while_it_trains(tiny, tmp_path, command, number):
    words = [*tiny, "pruner=omp", "sparsity=0.5", "recipe.epochs=200", "data.num_workers=2"]
    process = subprocess.Popen(
        [sys.executable, "-m", COMMANDS[command][0], *words, *COMMANDS[command][1:]],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    runs = tmp_path / "out" / "runs"
    until = time.monotonic() + 120
    second = re.compile(r"epoch ([2-9]|\d\d+) of")  # the first has been saved
    while time.monotonic() < until and not any(second.match(f.read_text()) for f in runs.glob("*/.progress")):
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.05)
    family = descendants(process.pid)
    assert len(family) >= 2
    process.send_signal(number)
    code = process.wait(60)
    assert code == (-number if number == signal.SIGKILL else 128 + number)
    assert wait_for_end(family) == []
    if number != signal.SIGKILL:
        assert signal.Signals(number).name in process.stderr.read().decode()
        assert list(runs.glob("*/last.ckpt"))
    process.stderr.close()


@pytest.mark.parametrize("number", ["SIGUSR1", "SIGTERM"])
def test_loaders_that_somebody_still_refers_to_are_not_waited_for(number):
    """They ignore the SIGTERM that multiprocessing sends them at the end of a process."""
    ended = subprocess.run([sys.executable, "-c", KEPT, number], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (3, "")
