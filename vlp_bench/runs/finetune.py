"""Fine-tune a pruned task, keep the best epoch, test it once. An interrupted run goes on from its last checkpoint."""

import logging
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar

from vlp_bench import processes
from vlp_bench.construct import construct
from vlp_bench.lifetime import Interrupted, interruptions
from vlp_bench.pruning.keep_pruned import KeepPruned
from vlp_bench.pruning.solution import Solution
from vlp_bench.runs.checkpointing import Interim, read_checkpoint
from vlp_bench.runs.lock import PROGRESS
from vlp_bench.runs.process_plan import Plan
from vlp_bench.runs.progress import EVERY, note
from vlp_bench.runs.recipe import Recipe, make_trainer
from vlp_bench.runs.specification import Specification
from vlp_bench.runs.terminal.errors import UserError
from vlp_bench.tasks.finetuning import FineTuning
from vlp_bench.tasks.optimisation import Diverged

LAST = "last.ckpt"  # in the folder of a run that is not done


def finetune(
    specification: Specification,
    task: FineTuning,
    data: LightningDataModule,
    solution: Solution,
    watchers: Sequence[Callback] = (),
    *,
    batch_size: int,
    bar: bool = True,
) -> dict[str, float]:
    """Train by the recipe, resume if there is something to resume, test the best epoch.

    Returns the metrics by 'split/metric', of the test and of the best epoch's validation.
    """
    config, folder = specification.config, specification.folder
    recipe: Recipe = construct(config["recipe"], "recipe", config["allow"])
    plan = Plan.of(specification)
    if recipe.epochs:
        task.meet(data)
    best, last = _checkpoints(folder, task.monitor)
    if config["force"]:
        _forget(folder)
    watching = [Bar()] if bar else []
    keeping = [KeepPruned(task.task_masks(solution.masks), prefix="model.")] if solution.kept < solution.total else []
    interim = Interim(folder / LAST, config["checkpoint_minutes"])
    callbacks = [*keeping, *watching, *watchers, Progress(folder), interim, best, last]
    with quiet():
        trainer = make_trainer(config, recipe, folder, callbacks, plan=plan, batch_size=batch_size, bar=bar)
        try:
            return _train_and_test(trainer, recipe, task, data, best, folder / LAST)
        except SystemExit:  # what Lightning makes of a KeyboardInterrupt
            signals = interruptions()
            raise (
                KeyboardInterrupt
                if signals is None or not signals.received
                else Interrupted(signals.received, signals.to)
            ) from None
        finally:
            for logger in trainer.loggers:
                _finish(logger)


def _train_and_test(
    trainer: Trainer,
    recipe: Recipe,
    task: FineTuning,
    data: LightningDataModule,
    best: ModelCheckpoint,
    last: Path,
) -> dict[str, float]:
    metrics: dict[str, float] = {}
    if recipe.epochs:
        _fit(trainer, task, data, last if last.is_file() else None)
        if best.best_model_score is None:
            raise UserError(f"{last.parent} was moved while its run was interrupted; begin anew with force=true")
        metrics[f"val/{task.monitor}"] = float(best.best_model_score)
        _restore(task, Path(best.best_model_path))
    [tested] = trainer.test(task, data, verbose=False)
    return metrics | {name: float(value) for name, value in tested.items()}


def _fit(trainer: Trainer, task: LightningModule, data: LightningDataModule, last: Path | None) -> None:
    task.train()  # models come in eval mode, and Lightning leaves modes alone
    try:
        trainer.fit(task, data, ckpt_path=last, weights_only=True)
    except (RuntimeError, UnpicklingError, EOFError, KeyError) as error:
        # negatives drawn by similarities that are no numbers; a learning rate above the largest of float32
        if re.search("probability tensor contains|without overflow", str(error)):
            raise Diverged(f"the loss is not a number at step {trainer.global_step}; lower task.lr") from error
        if last is None or trainer.global_step or processes.lost(error):
            raise
        raise UserError(f"{last} cannot be resumed from ({_first_line(error)}); begin anew with force=true") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _restore(task: LightningModule, file: Path) -> None:
    state = read_checkpoint(file, "cpu")
    task.load_state_dict(state["state_dict"])


def _checkpoints(folder: Path, monitor: str) -> tuple[ModelCheckpoint, ModelCheckpoint]:
    """Best epoch (weights alone) and last epoch (all that resuming needs), in this order: the last knows the best."""
    common: dict[str, Any] = {"dirpath": str(folder), "enable_version_counter": False}
    best = ModelCheckpoint(
        filename="best", monitor=f"val/{monitor}", mode="max", save_top_k=1, save_weights_only=True, **common
    )
    last = ModelCheckpoint(filename="last", save_top_k=1, every_n_epochs=1, **common)
    return best, last


def _forget(folder: Path) -> None:
    for name in ("best.ckpt", LAST):
        (folder / name).unlink(missing_ok=True)


def _finish(logger: Any) -> None:
    """Close a W&B run, so that the next run of this process does not continue it."""
    finish = getattr(logger, "finish", None) or getattr(getattr(logger, "_experiment", None), "finish", None)
    if finish is not None:
        finish()


class Progress(Callback):
    """Leaves "epoch 2 of 10, step 130 of 640" in a run's folder, once a second at most. It never stops a run."""

    def __init__(self, folder: Path) -> None:
        self.file, self.told = folder / PROGRESS, -EVERY

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if time.monotonic() - self.told >= EVERY:
            steps = f"step {trainer.global_step} of {int(trainer.estimated_stepping_batches)}"
            self._tell(trainer, f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}, {steps}")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._tell(trainer, f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}, validation")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tell(trainer, "test")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.file.unlink(missing_ok=True)

    def _tell(self, trainer: Trainer, what: str) -> None:
        self.told = time.monotonic()
        if trainer.is_global_zero:
            note(self.file, what)


class Bar(RichProgressBar):
    """Lightning's progress bar without the number of the log folder."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what Lightning says about choices that are made on purpose here; everything else still speaks."""
    voices = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [voice.level for voice in voices]
    with warnings.catch_warnings():
        for message in (
            r".*does not have many workers.*",
            r".*exists and is not empty.*",
            r".*number of training batches.*",
            r".*LeafSpec.*",
        ):
            warnings.filterwarnings("ignore", message=message)
        for voice in voices:
            voice.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for voice, level in zip(voices, levels, strict=True):
                voice.setLevel(level)
