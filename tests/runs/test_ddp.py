"""Two gloo processes on the CPU against one: the same masks, curve, metrics; and what is refused."""

import csv
import os
import sys

import pytest
import torch
from lightning.pytorch import Callback

from benchmarks.endurance.kill_anywhere import MEASURED
from tests.support.forked import together
from vlp_bench import processes
from vlp_bench.results.store import Store
from vlp_bench.runs.process_group import perform
from vlp_bench.runs.process_plan import Plan
from vlp_bench.runs.prune_once import load_mask
from vlp_bench.sweeps.expand import cells_of


@pytest.fixture(scope="session")
def dry_weights(tmp_path_factory):
    """A model without dropout: several processes cannot drop what one would."""
    from vlp_bench.data.shapes.phrases import vocabulary
    from vlp_bench.models.checkpoints.read_write import save_model
    from vlp_bench.models.xvlm.model import XVLM
    from vlp_bench.models.xvlm.towers import XVLMConfig

    config = XVLMConfig(
        image_size=48, patch_size=8, vision_width=16, vision_layers=1, vision_heads=2, local_attn_depth=1,
        text_width=16, text_layers=2, fusion_layers=1, text_heads=2, vocab_size=len(vocabulary()), embed_dim=8,
        stem="conv", max_positions=48, dropout=0.0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return save_model(tmp_path_factory.mktemp("weights") / "dry.safetensors", XVLM(config))


DDP = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")


def run_forked(specification, count, folder, *watchers):
    """What `perform` does in processes that torchrun would have started."""
    from rich.console import Console

    from vlp_bench.runs.run import Helpers, run

    def once():
        os.environ.update(RANK=str(processes.rank()), LOCAL_RANK=str(processes.rank()), NODE_RANK="0")
        os.environ.update(WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
        try:
            run(specification, Helpers(console=Console(quiet=True), watchers=watchers))
        except KeyboardInterrupt:
            assert watchers
        return {}

    together(count, once, folder)


def curve(specification):
    [file] = (specification.folder / "curves").glob("version_*/metrics.csv")
    with open(file) as lines:
        return [float(row["train/loss"]) for row in csv.DictReader(lines) if row["train/loss"]]


def numbers(specification):
    rows = Store(specification.out / "runs").last(specification.run)
    return {(row.split, row.metric): row.value for row in rows if row.metric not in MEASURED}


def test_two_processes_train_and_measure_what_one_does(specified, dry_weights, tmp_path):
    words = [
        f"model.weights={dry_weights}", "pruner=snip", "sparsity=0.5", "trainer.log_every_n_steps=1", "task.lr=1e-3",
        "recipe.epochs=1", "data.source.train=48",
    ]  # fmt: skip
    one = specified(*words, f"paths.out={tmp_path}/one")
    two = specified(*words, *DDP, "data.batch_size=4", f"paths.out={tmp_path}/two")
    run_forked(one, 1, tmp_path / "1")
    run_forked(two, 2, tmp_path / "2")
    assert len(curve(one)) == 6
    assert_same(one, two)


def assert_same(one, two):
    """Curve within 1e-5, metrics and masks bit for bit; one set of rows."""
    assert curve(two) == pytest.approx(curve(one), abs=1e-5)
    assert numbers(two) == numbers(one)
    [first], [second] = (list((run.out / "masks").iterdir()) for run in (one, two))
    masks = load_mask(first).masks, load_mask(second).masks
    assert all(torch.equal(mask, masks[1][name]) for name, mask in masks[0].items())
    rows = list(Store(two.out / "runs").rows())
    assert len(rows) == rows[0].rows  # stored once, not by each process


def test_a_target_batch_that_cannot_be_made_is_refused_before_anything_is_built(specified):
    with pytest.raises(ValueError, match=r"target batch of 8 .* of 2 device.* that fits is one of 1, 2, 4"):
        Plan.of(specified(*DDP, "data.batch_size=8"))
    assert Plan.of(specified(*DDP, "data.batch_size=2")).world == 2


@pytest.mark.parametrize(
    "words, batch_size",
    [
        ((), 24),  # target 48, data.batch_size 48
        (("trainer.devices=3",), 16),
        (("trainer.devices=5", "recipe.target_batch=50"), 10),
        (("recipe.target_batch=96",), 48),
        (("trainer.devices=1",), 48),
    ],
)
def test_several_devices_take_the_largest_batches_that_keep_the_target(words, batch_size):
    one, several = cells_of(["+exp=xvlm_itr", "benchmark=mini"]), cells_of(["+exp=xvlm_itr", "benchmark=mini", *DDP])
    assert one[0].name == several[0].name  # the same run, whoever computes it
    found = Plan.of(cells_of(["+exp=xvlm_itr", "benchmark=mini", *DDP, *words])[0].specification)
    assert found.batch_size == batch_size
    config = several[0].specification.config
    assert found.fit(config)["data"] == config["data"] | {"batch_size": batch_size}


def test_a_target_batch_that_devices_cannot_share_is_refused():
    [cell] = cells_of(["+exp=xvlm_itr", "benchmark=mini", *DDP, "trainer.devices=5"])
    with pytest.raises(ValueError, match="5 devices share only multiples of 5; try a target of 45"):
        Plan.of(cell.specification)


MEMBERS = {
    "rank 0 is killed": (
        ["import os; os.kill(os.getpid(), 9)", "import time; time.sleep(0.5); print('connection closed'); exit(1)"],
        137,
        ["process 0 of 2 was killed by SIGKILL first", "process 1 of 2 ended with exit code 1"],
    ),
    "rank 1 fails and rank 0 waits for it": (
        ["import time; time.sleep(60)", "print('no such file'); exit(2)"],
        2,
        ["process 0 of 2 was killed by SIGTERM, ended by the others' end", "exit code 2 first", "no such file"],
    ),
    "all say the same": (["exit(3)", "exit(3)"], 3, []),
    "all is well": (["pass", "pass"], 0, []),
}


@pytest.mark.parametrize("case", MEMBERS)
def test_it_is_told_which_process_ended_how(case, monkeypatch, capsys):
    import subprocess
    import tempfile

    from vlp_bench.runs import spawn as module

    programs, code, told = MEMBERS[case]

    def member(rank, count, port, arguments, files):
        said = files.enter_context(tempfile.TemporaryFile()) if rank else None  # noqa: SIM115
        return module.Member(subprocess.Popen([sys.executable, "-c", programs[rank]], stdout=said), said)

    monkeypatch.setattr(module, "_member", member)
    monkeypatch.setattr(module, "GRACE", 1.5)
    assert module.spawn(2, []) == code
    seen = capsys.readouterr().err
    assert all(line in seen for line in told)
    assert bool(seen) == bool(told)


LOST = "[pair.cc:547] Connection closed by peer [127.0.0.1]:51234"


@pytest.mark.parametrize(("told", "lost"), [(LOST, True), ("mat1 and mat2 shapes cannot be multiplied", False)])
def test_a_process_that_lost_another_says_so_in_a_line(monkeypatch, told, lost):
    from vlp_bench.runs.process_group import joined
    from vlp_bench.runs.terminal.errors import exit_code, explain

    monkeypatch.setattr("torch.distributed.init_process_group", lambda backend: None)
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: None)
    monkeypatch.setattr(processes, "size", lambda: 2)
    with pytest.raises((OSError, RuntimeError)) as raised, joined(Plan(2, 1, False), {}):
        raise RuntimeError(told)
    line = explain(raised.value)
    assert line == (
        "another process of this run has ended; the same command goes on from what is stored" if lost else None
    )
    assert exit_code(raised.value) == (1 if lost else 2)


@pytest.mark.parametrize("strategy", ("fsdp", "{_target_: lightning.pytorch.strategies.FSDPStrategy}", "deepspeed"))
def test_strategies_that_shard_weights_are_refused_with_the_reason(specified, strategy):
    with pytest.raises(ValueError, match=r"zeros could neither be kept nor verified. Use trainer=ddp"):
        Plan.of(specified(f"+trainer.strategy={strategy}"))


def test_unknown_strategies_and_devices_are_refused(specified):
    with pytest.raises(ValueError, match="ddp_spawn: allowed are auto, ddp"):
        Plan.of(specified("+trainer.strategy=ddp_spawn"))
    with pytest.raises(ValueError, match="devices=none"):
        Plan.of(specified("trainer.devices=none"))
    assert Plan.of(specified("trainer=ddp", "trainer.accelerator=cpu")) == Plan(1, 1, False)


def test_processes_that_do_not_fit_the_devices_are_refused(specified, monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"2 processes were started.*trainer=ddp trainer.devices=2"):
        perform(specified(), [])
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name)
    with pytest.raises(ValueError, match="srun --nodes=2 --ntasks-per-node=2"):
        perform(specified(*DDP, "trainer.num_nodes=2", "data.batch_size=2"), [])


def test_srun_is_recognised(monkeypatch):
    from vlp_bench.runs.process_group import _srun

    step = {
        "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1",
        "SLURM_STEP_NODELIST": "node[07-08]", "SLURM_JOB_ID": "42",
    }  # fmt: skip
    found = _srun(step)
    assert (found["RANK"], found["LOCAL_RANK"], found["NODE_RANK"], found["WORLD_SIZE"]) == ("3", "1", "1", "4")
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("node07", "15042")
    assert _srun(step | {"SLURM_STEP_NUM_TASKS": "1"}) == {}
    assert _srun(step | {"RANK": "0"}) == {}


class Stop(Callback):
    """Breaks off in the first step of the second epoch."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_an_interrupted_run_of_two_processes_drops_what_an_undisturbed_one_drops(specified, tmp_path):
    words = [*DDP, "data.batch_size=4", "pruner=omp", "sparsity=0.5", "task.lr=1e-3"]
    calm, broken = specified(*words, f"paths.out={tmp_path}/calm"), specified(*words)
    run_forked(calm, 2, tmp_path / "0")
    run_forked(broken, 2, tmp_path / "1", Stop())
    assert (broken.folder / "last.ckpt").is_file()
    run_forked(broken, 2, tmp_path / "2")
    assert numbers(broken) == numbers(calm)
    states = [torch.load(run.folder / "best.ckpt", weights_only=True)["state_dict"] for run in (calm, broken)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.slow
def test_the_command_starts_its_own_processes_and_ends_them_together(tiny, tmp_path):
    import subprocess

    words = [*tiny, *DDP, "data.batch_size=4", "pruner=omp", "sparsity=0.5"]
    done = subprocess.run([sys.executable, "-m", "vlp_bench", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("benchmark=mini:") == 1
    failed = subprocess.run(
        [sys.executable, "-m", "vlp_bench", *words, "task.lr=1e30", "task.warmup=0", "recipe.clip=null"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert failed.returncode == 3
    assert failed.stderr.count("error:") == 1
    assert "task.lr" in failed.stderr


@pytest.mark.slow
def test_torchrun_on_the_embedded_world_computes_what_one_process_does(tmp_path):
    """The shipped model without dropout, 10 steps of 48; two gloo processes that torchrun has started."""
    import subprocess
    from dataclasses import replace

    from vlp_bench.models.checkpoints.read_write import build, save_model
    from vlp_bench.models.xvlm.model import XVLM

    shipped = build("pkg://vlp_bench/assets/xvlm_shapes.safetensors")
    dry = XVLM(replace(shipped.config, dropout=0.0))
    dry.load_state_dict(shipped.state_dict())
    weights = save_model(tmp_path / "dry.safetensors", dry)
    words = [
        "+exp=xvlm_itr", "benchmark=mini", f"model.weights={weights}", "pruner=multiflow", "sparsity=0.9",
        "recipe.epochs=1", "trainer.log_every_n_steps=1", "data.source.train=480", "data.source.val=60",
        "data.source.test=60", "data.calibration.num_batches=4",
    ]  # fmt: skip
    alone = [*words, "trainer=cpu", f"paths.out={tmp_path}/one"]
    shared = [*words, *DDP, f"paths.out={tmp_path}/two"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for start, own in (([], alone), (torchrun, shared)):
        command = [sys.executable, *start, "-m", "vlp_bench", *own]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    [one], [two] = cells_of(alone), cells_of(shared)
    steps = curve(one.specification)
    assert len(steps) == 10
    assert_same(one.specification, two.specification)
    apart = max(abs(a - b) for a, b in zip(steps, curve(two.specification), strict=True))
    print(f"losses of {len(steps)} steps differ by {apart:.1e} at most, metrics: {numbers(two.specification)}")
