"""The task on a tiny world: pruned once, trained by the recipe, stopped and resumed without a trace, measured."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from tests.tasks.conftest import tiny_data, tiny_model
from vlp_bench.tasks.optimisation import Diverged, warmed
from vlp_bench.tasks.retrieval import Retrieval

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*exists and is not empty.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
]
Train = Callable[..., Trainer]


class Killed(Exception):
    """What stops a run in a test."""


class Kill(Callback):
    """Stops a run when a number of batches have been trained, as a power cut would."""

    def __init__(self, after: int) -> None:
        self.left = after

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not self.left:
            raise Killed
        self.left -= 1


class Watch(Callback):
    """Keeps the learning rate, the captions and the loss of every batch."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.texts: list[Tensor] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        self.losses.append(float(outputs["loss"]))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.texts.append(batch.text_ids)


def task(**changes: Any) -> Retrieval:
    return Retrieval(tiny_model(), **({"lr": 1e-2, "k_test": 5, "match_batch": 16} | changes))


def state(task: Retrieval) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in task.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def saver(folder: Path, **when: Any) -> ModelCheckpoint:
    return ModelCheckpoint(dirpath=str(folder), filename="last", save_top_k=1, enable_version_counter=False, **when)


def test_the_pruner_is_called_once_and_before_anything_else(train: Train) -> None:
    seen: list[nn.Module] = []
    model = tiny_model()
    tested = Retrieval(model, pruner=seen.append, k_test=5, image_size=32)
    assert [m is model for m in seen] == [True]
    tested = Retrieval(tiny_model(), pruner=seen.append, lr=1e-2, k_test=5)
    trainer = train(tested)
    trainer.test(tested, tiny_data(), verbose=False)
    assert len(seen) == 2


def test_the_pruner_sees_the_images_of_pre_training() -> None:
    sizes: list[int] = []
    built = Retrieval(tiny_model(), pruner=lambda m: sizes.append(m.config.image_size), image_size=96)
    assert (sizes, built.model.config.image_size) == ([48], 96)


def test_a_resumed_run_does_not_prune_again(train: Train, tmp_path: Path) -> None:
    train(task(), saver(tmp_path, every_n_epochs=1), max_epochs=1, enable_checkpointing=True)
    calls: list[nn.Module] = []
    resumed = task(pruner=calls.append)
    train(resumed, saver(tmp_path, every_n_epochs=1), resume=tmp_path / "last.ckpt", enable_checkpointing=True)
    assert len(calls) == 1  # at construction, by the pruner that installs the stored mask


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_run_is_decided_by_its_seed(train: Train, dropout: float) -> None:
    def final(seed: int) -> dict[str, Tensor]:
        trained = Retrieval(tiny_model(dropout=dropout), lr=1e-2, k_test=5, seed=seed)
        train(trained, data=tiny_data(seed=seed))
        return state(trained)

    assert equal(final(0), final(0))
    assert not equal(final(0), final(1))


@pytest.mark.parametrize(
    "killed, workers, when",
    [
        (4, 0, {"every_n_epochs": 1}),
        (6, 0, {"every_n_epochs": 1}),
        (4, 0, {"every_n_train_steps": 1}),
        (7, 0, {"every_n_train_steps": 1}),
        (7, 2, {"every_n_train_steps": 2}),
    ],
)
def test_a_killed_run_ends_with_the_same_weights(
    train: Train, tmp_path: Path, killed: int, workers: int, when: dict[str, int]
) -> None:
    settings = {"enable_checkpointing": True, "max_epochs": 3}
    whole = task()
    train(whole, saver(tmp_path / "whole", **when), **settings)
    with pytest.raises(Killed):
        train(task(), saver(tmp_path, **when), Kill(killed), **settings)
    resumed, data = task(), tiny_data(num_workers=workers)
    train(resumed, saver(tmp_path, **when), data=data, resume=tmp_path / "last.ckpt", stream=99, **settings)
    assert equal(state(resumed), state(whole))


def test_accumulated_batches_resume_too(train: Train, tmp_path: Path) -> None:
    settings = {"enable_checkpointing": True, "accumulate_grad_batches": 2}
    whole = task()
    train(whole, saver(tmp_path / "whole", every_n_train_steps=1), **settings)
    with pytest.raises(Killed):
        train(task(), saver(tmp_path, every_n_train_steps=1), Kill(3), **settings)
    resumed, keep = task(), saver(tmp_path, every_n_train_steps=1)
    train(resumed, keep, resume=tmp_path / "last.ckpt", stream=99, **settings)
    assert equal(state(resumed), state(whole))


def test_the_rate_follows_the_recipe_step_by_step(train: Train) -> None:
    watch = Watch()
    train(task(lr=1e-3, warmup=0.25, schedule="cosine"), watch)
    expected = [1e-3 * warmed(s, total=8, warmup=2, schedule="cosine") for s in range(8)]
    assert watch.rates == pytest.approx(expected)


def test_training_lowers_the_loss(train: Train) -> None:
    watch = Watch()
    train(Retrieval(tiny_model(dropout=0.0), lr=5e-3, k_test=5), watch, max_epochs=40, limit_val_batches=0)
    start, end = (sum(part) / len(part) for part in (watch.losses[:8], watch.losses[-8:]))
    assert end < start - 0.3


def test_epochs_are_in_different_orders(train: Train) -> None:
    watch, again = Watch(), Watch()
    train(task(), watch)
    train(task(), again)
    assert all(torch.equal(a, b) for a, b in zip(watch.texts, again.texts, strict=True))
    assert watch.texts[0].tolist() != watch.texts[4].tolist()


def test_metrics_of_both_splits_are_logged(train: Train) -> None:
    tested = task()
    trainer = train(tested, max_epochs=1)
    names = {f"{way}_{what}" for way in ("txt", "img") for what in ("r1", "r5", "r10", "r_mean")} | {"r_mean"}
    names |= {f"itc_{name}" for name in names}
    assert {n.removeprefix("val/") for n in trainer.callback_metrics if n.startswith("val/")} == names
    [metrics] = trainer.test(tested, tiny_data(), verbose=False)
    assert metrics.keys() == {f"test/{name}" for name in names}
    assert all(0 <= value <= 100 for value in metrics.values())


def test_evaluation_changes_nothing_and_repeats(train: Train) -> None:
    tested = task()
    trainer = train(tested, max_epochs=1)
    before = state(tested)
    first, second = (trainer.test(tested, tiny_data(), verbose=False) for _ in range(2))
    assert first == second
    assert equal(before, state(tested))


def test_a_gallery_smaller_than_the_shortlist_is_re_ranked_wholly(train: Train) -> None:
    tested = task(k_test=10_000)
    trainer = train(tested, max_epochs=1)
    assert "val/r_mean" in trainer.callback_metrics


def test_mixed_precision_evaluates_and_trains(train: Train) -> None:
    trainer = train(task(gallery="cpu"), max_epochs=1, precision="bf16-mixed")
    assert trainer.callback_metrics["val/itc_r_mean"] >= 0


def test_a_loss_that_is_no_number_names_the_step(train: Train) -> None:
    broken = task()
    broken.model.temp.data.fill_(torch.nan)
    with pytest.raises(Diverged, match=r"optimiser step 0 \(epoch 0, batch 0\): weights that.*lower task.lr \(0.01\)"):
        train(broken)


@pytest.mark.parametrize("head", ["itm_head", "text_proj"])
def test_weights_that_are_no_numbers_do_not_score(head: str) -> None:
    broken = task()
    for parameter in getattr(broken.model, head).parameters():
        parameter.data.fill_(torch.nan)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    with pytest.raises(Diverged, match="scores that are not numbers"):
        trainer.test(broken, tiny_data(), verbose=False)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"k_test": 0}, "k_test must be at least 1, got 0"),
        ({"match_batch": 0}, "match_batch must be at least 1, got 0"),
        ({"gallery": "disk"}, "gallery must be one of device, cpu, got 'disk'"),
        ({"lr": -1.0}, "lr must be a positive number"),
        ({"schedule": "constant"}, "one of linear, cosine"),
    ],
)
def test_arguments_out_of_range_are_refused_before_pruning(given: dict, message: str) -> None:
    calls: list[nn.Module] = []
    with pytest.raises(ValueError, match=message):
        task(pruner=calls.append, **given)
    assert not calls
