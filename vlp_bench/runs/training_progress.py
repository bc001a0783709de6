"""How far fine-tuning is, in a line in the run's folder for other processes to read."""

import time
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from vlp_bench.runs.lock import PROGRESS
from vlp_bench.runs.progress import EVERY, note


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
