"""A run of two processes, one of which is ended from outside: it is told which and how, and the run goes on to the same
bits. So with the signals that schedulers send before the time is over.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.endurance.kill_anywhere import MEASURED
from vlp_bench.results.store import Store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc"),
]
DDP = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.batch_size=4")


def started(words):
    return subprocess.Popen(
        [sys.executable, "-m", "vlp_bench", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def trained(process, out, before):
    """Wait until a run is past the epoch `before` ("epoch 3 of 40, validation"); where it is."""
    until = time.monotonic() + 200
    while time.monotonic() < until:
        assert process.poll() is None, process.stderr.read().decode()
        for note in out.glob("runs/*/.progress"):
            found = re.search(r"epoch (\d+)", note.read_text())
            if found and int(found[1]) > before:
                return int(found[1])
        time.sleep(0.02)
    raise AssertionError("it does not train")


def ranks(parent):
    """Rank -> process, of the children of a command."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                env = dict(word.split("=", 1) for word in (folder / "environ").read_text().split("\0") if "=" in word)
                found[int(env["RANK"])] = int(folder.name)
        except (OSError, KeyError):
            continue
    return found


def left(out):
    [run] = (out / "runs").iterdir()
    rows = list(Store(out / "runs").rows(run.name))
    assert len(rows) == rows[0].rows  # stored once
    state = torch.load(run / "best.ckpt", weights_only=True)["state_dict"]
    return {(row.split, row.metric): row.value for row in rows if row.metric not in MEASURED}, state


def assert_same(one, other):
    assert left(one)[0] == left(other)[0]
    states = left(one)[1], left(other)[1]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_a_run_of_which_one_process_is_ended_says_which_and_goes_on_to_the_same_bits(tiny, tmp_path):
    words = [*tiny, *DDP, "pruner=omp", "sparsity=0.5", "recipe.epochs=100", "task.lr=1e-3", "checkpoint_minutes=0"]
    epoch = 0
    for number in (signal.SIGKILL, signal.SIGTERM):
        for rank in (0, 1):
            with started(words) as process:
                epoch = trained(process, tmp_path / "out", epoch + 2)
                os.kill(ranks(process.pid)[rank], number)
                code, said = process.wait(120), process.stderr.read().decode()
            assert code == 128 + number, said
            assert "Traceback" not in said
            if number == signal.SIGKILL:
                assert f"process {rank} of 2 was killed by SIGKILL first" in said
                assert ("error: another process of this run has ended; the same command" in said) == (rank == 1)
            else:
                assert "interrupted by SIGTERM" in said
                assert "the same command goes on" in said
                assert rank == 0 or "process 1 of 2" in said  # which ended first, or which was told
            assert list((tmp_path / "out/runs").glob("*/last.ckpt"))
    for out in (tmp_path / "out", tmp_path / "calm"):
        ended_well([*words, f"paths.out={out}"])
    assert_same(tmp_path / "calm", tmp_path / "out")


def ended_well(words):
    with started(words) as process:
        said = process.stderr.read().decode()
    assert process.returncode == 0, said


@pytest.mark.parametrize("kind", ["run", "sweep"])
def test_the_signal_of_a_scheduler_leaves_a_checkpoint_and_a_word(tiny, tmp_path, kind):
    sweep = ["-m", "seed=0,1", "hydra.launcher.n_parallel=1"] if kind == "sweep" else ["data.num_workers=2"]
    words = [*sweep, *tiny, "pruner=omp", "sparsity=0.5", "recipe.epochs=60", "task.lr=1e-3"]
    with started(words) as process:
        trained(process, tmp_path / "out", 2)
        process.send_signal(signal.SIGUSR1)
        code, said = process.wait(120), process.stderr.read().decode()
    assert code == 128 + signal.SIGUSR1, said
    assert "interrupted by SIGUSR1; the same command goes on from what is stored" in said
    assert list((tmp_path / "out/runs").glob("*/last.ckpt"))
    ended_well(words)
    assert len(list((tmp_path / "out/runs").glob("*/rows.jsonl"))) == (2 if kind == "sweep" else 1)
