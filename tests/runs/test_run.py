"""The whole sentence on a tiny model: pruned once, fine-tuned, tested, stored; shown, resumed, refused."""

import io

import pytest
import torch
from lightning.pytorch import Callback
from rich.console import Console

from vlp_bench.pruning.pruner import Pruner
from vlp_bench.results.store import Store
from vlp_bench.runs import prune_once
from vlp_bench.runs.run import Helpers, run
from vlp_bench.tasks.optimisation import Diverged


def performed(specification, *watchers):
    """What the user sees of a run."""
    console = Console(file=io.StringIO(), width=160)
    run(specification, Helpers(console=console, watchers=watchers))
    return console.file.getvalue()


def stored(specification):
    return {(r.split, r.metric): r.value for r in Store(specification.out / "runs").last(specification.run)}


@pytest.fixture
def prunings(monkeypatch):
    """The sparsities that were asked of pruners, in order."""
    asked = []
    prune = Pruner.prune

    def counting(self, model, sparsity, *rest):
        asked.extend(sparsity)
        return prune(self, model, sparsity, *rest)

    monkeypatch.setattr(Pruner, "prune", counting)
    return asked


def test_a_run_prunes_tunes_tests_and_stores(specified, prunings):
    found = specified("pruner=multiflow", "sparsity=0.5")
    seen = performed(found)
    assert prunings == [0.5]
    for part in (
        "benchmark=mini", "benchmark=paper", "multiflow", "sparsity 0.5", "seed 0", str(found.folder), "fusion",
        "50.00 %", "pruner=dense sparsity=0", "pruner=omp",
    ):  # fmt: skip
        assert part in seen
    values = stored(found)
    assert {("test", "txt_r1"), ("test", "img_r1"), ("val", "r_mean"), ("mask", "sparsity")} <= set(values)
    assert abs(values["mask", "sparsity"] - 0.5) < 1e-3
    [row, *_] = Store(found.out / "runs").last(found.run)
    assert row.provenance["config"]["sparsity"] == 0.5
    assert row.provenance["mask"]
    assert row.provenance["data"]
    assert row.provenance["weights"] == found.weights
    assert {"torch", "lightning", "transformers", "vlp_bench", "python"} <= set(row.provenance["versions"])
    assert sorted(p.name for p in found.folder.iterdir()) == [
        ".lock",
        "best.ckpt",
        "curves",
        "examples.npz",
        "rows.jsonl",
    ]


def test_what_is_stored_is_shown_and_not_computed_again(specified, prunings):
    found = specified("pruner=omp", "sparsity=0.5", "recipe.epochs=0")
    performed(found)
    seen = performed(found)
    assert "already done" in seen
    assert "force=true" in seen
    assert prunings == [0.5]
    performed(specified("pruner=omp", "sparsity=0.5", "recipe.epochs=0", "force=true"))
    assert prunings == [0.5, 0.5]
    assert len(list(Store(found.out / "runs").rows())) == 2 * len(stored(found))


def test_the_change_is_shown_where_the_references_are_there(specified):
    for words in (["pruner=dense"], ["pruner=omp", "sparsity=0.5"]):
        performed(specified(*words, "recipe.epochs=0"))
    seen = performed(specified("pruner=lamp", "sparsity=0.5", "recipe.epochs=0"))
    assert "dense" in seen
    assert seen.count("change") >= 3  # the legend and two columns
    assert "no row of" not in seen


def test_a_mask_is_shared_by_runs_that_differ_in_task_or_seed(specified, prunings):
    first = specified("pruner=snip", "sparsity=0.5", "recipe.epochs=0")
    performed(first)
    performed(specified("pruner=snip", "sparsity=0.5", "recipe.epochs=0", "seed=1"))
    seen = performed(specified("pruner=snip", "sparsity=0.5", "recipe.epochs=0", "task.k_test=3"))
    assert prunings == [0.5]
    assert "mask read from" in seen
    performed(specified("pruner=random", "sparsity=0.5", "recipe.epochs=0"))
    performed(specified("pruner=random", "sparsity=0.5", "recipe.epochs=0", "seed=1"))
    assert len(prunings) == 3
    assert len(list((first.out / "masks").iterdir())) == 3


def test_a_broken_mask_is_made_again(specified, prunings, capsys):
    performed(specified("pruner=omp", "sparsity=0.5", "recipe.epochs=0"))
    [file] = (specified().out / "masks").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    performed(specified("pruner=omp", "sparsity=0.5", "recipe.epochs=0", "seed=1"))
    assert len(prunings) == 2
    assert str(file) in capsys.readouterr().err.replace("\n", "")
    assert prune_once.load_mask(file) is not None


class Stop(Callback):
    """Breaks off in the first step after an epoch, as a kill would: nothing is tidied up."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == self.epoch:
            raise KeyboardInterrupt


def test_an_interrupted_run_ends_with_the_numbers_and_weights_of_an_undisturbed_one(specified, prunings, tmp_path):
    words = ["pruner=multiflow", "sparsity=0.5", "recipe.epochs=3", "task.lr=1e-3"]
    calm = specified(*words, f"paths.out={tmp_path}/calm")
    performed(calm)
    broken = specified(*words)
    for epoch in (0, 1, 2):
        with pytest.raises(KeyboardInterrupt):
            performed(broken, Stop(epoch))
        assert not Store(broken.out / "runs").done(broken.run)
    assert "goes on" in performed(broken)
    assert prunings == [0.5, 0.5]  # once each, never on resuming
    numbers = [
        {k: v for k, v in stored(run).items() if k[1] not in ("seconds", "shared_seconds", "peak_gb")}
        for run in (calm, broken)
    ]
    assert numbers[0] == numbers[1]
    states = [torch.load(run.folder / "best.ckpt", weights_only=True)["state_dict"] for run in (calm, broken)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_damaged_checkpoint_is_named_with_the_way_out(specified):
    found = specified("pruner=omp", "sparsity=0.5")
    with pytest.raises(KeyboardInterrupt):
        performed(found, Stop(1))
    last = found.folder / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"last\.ckpt cannot be resumed from .* force=true"):
        performed(found)
    performed(specified("pruner=omp", "sparsity=0.5", "force=true"))
    assert Store(found.out / "runs").done(found.run)


def test_zeros_are_zero_in_the_tested_weights(specified):
    found = specified("pruner=omp", "sparsity=0.9", "task.lr=1e-2", "task.weight_decay=0.1")
    performed(found)
    [file] = (found.out / "masks").iterdir()
    state = torch.load(found.folder / "best.ckpt", weights_only=True)["state_dict"]
    solution = prune_once.load_mask(file)
    for name, mask in solution.masks.items():
        assert not state[f"model.{name}"][~mask].any()
        assert state[f"model.{name}"][mask].all()


def test_a_weight_that_came_back_to_life_is_noticed(specified):
    from vlp_bench.pruning.solution import Solution

    model = torch.nn.Linear(2, 1)
    solution = Solution({"weight": torch.tensor([[True, False]])})
    solution.install(model)
    prune_once.assert_zeros(model, solution.masks)
    model.weight.data += 1
    with pytest.raises(AssertionError, match="1 pruned weights of weight"):
        prune_once.assert_zeros(model, solution.masks)


@pytest.mark.parametrize("lr", ["1e30", "1e99"])  # the second is above the largest of float32
def test_a_training_that_diverges_is_stored_as_an_error(specified, lr):
    found = specified("pruner=omp", "sparsity=0.5", f"task.lr={lr}", "task.warmup=0", "recipe.clip=null")
    with pytest.raises(Diverged):
        performed(found)
    [row] = Store(found.out / "runs").rows()
    assert (row.status, row.split) == ("ERR", "test")
    assert "task.lr" in row.message
    assert not Store(found.out / "runs").done(found.run)
    assert row.provenance["mask"]


def test_two_runs_in_one_folder_are_refused(specified):
    from vlp_bench.runs.lock import exclusive

    found = specified("pruner=omp", "sparsity=0.5", "recipe.epochs=0")
    with exclusive(found.folder), pytest.raises(ValueError, match="another run"):
        performed(found)
    performed(found)


def test_a_full_disk_while_storing_leaves_no_half_result(specified, monkeypatch):
    import os

    found = specified("pruner=omp", "sparsity=0.5", "recipe.epochs=0")
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:100]))
    with pytest.raises(OSError, match="No space left"):
        performed(found)
    monkeypatch.undo()
    assert list(Store(found.out / "runs").rows()) == []
    performed(found)
    assert Store(found.out / "runs").done(found.run)


def test_wandb_that_does_not_work_never_stops_a_run(specified, monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "wandb", None)
    found = specified("pruner=omp", "sparsity=0.5", "logger=wandb", "recipe.epochs=0")
    performed(found)
    assert Store(found.out / "runs").done(found.run)
    assert "logger=wandb stopped working" in capsys.readouterr().err
