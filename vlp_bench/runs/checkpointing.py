"""Lightning's checkpoints: when they are written, whole or not at all, and never executed when read."""

import io
import os
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO

from vlp_bench import processes
from vlp_bench.lifetime import Interrupted, interruptions
from vlp_bench.models.checkpoints.archives import check_archive
from vlp_bench.runs.terminal.errors import UserError


class WholeFiles(TorchCheckpointIO):
    """Writes beside the target, then renames.

    Lightning goes through the system's temporary folder: where that is another file system, the last step is a
    copy, and a kill or a full disk leaves half a file under the checkpoint's name.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Save a checkpoint; OSError (no space, read-only) leaves what was there before."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_whole(Path(path), content.getbuffer())

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """See `read_checkpoint`."""
        return read_checkpoint(Path(path), map_location)


class Interim(Callback):
    """Saves a run in the middle of an epoch: now and then, and before it ends because a signal asks it to.

    After an optimiser step only, as no checkpoint holds gradients that are still being accumulated; not after the last
    of an epoch, which is saved once it has been validated. What it writes is the file of the last epoch's checkpoint.

    Args:
        file: the checkpoint.
        minutes: between two of them; 0 saves after every step, None at the end of epochs alone.
    """

    def __init__(self, file: Path, minutes: float | None) -> None:
        self.file, self.seconds, self.saved = file, None if minutes is None else 60 * minutes, time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _take_signals(patient=True)  # Lightning has just taken them for itself
        self.saved = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done = batch_idx + 1
        if done % trainer.accumulate_grad_batches and done != trainer.num_training_batches:
            return
        now, stop = time.monotonic(), _told()
        due = processes.largest(self.seconds is not None and now - self.saved >= self.seconds)
        if (due or stop) and done != trainer.num_training_batches:
            trainer.save_checkpoint(self.file)
            self.saved = now
        if stop:
            raise _interrupted(*divmod(stop, processes.size()))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _heed_signals()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _take_signals(patient=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _heed_signals()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        _take_signals(patient=False)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _take_signals(patient=False)


def _interrupted(number: int, rank: int) -> Interrupted:
    """By signal `number`, which process `rank` has got; so this one ends as if it were told."""
    to = f"process {rank} of {processes.size()}" if rank != processes.rank() else ""
    if (signals := interruptions()) is not None:
        signals.hear(number, to)
    return Interrupted(number, to)


def _told() -> int:
    """Number of the signal that asks a process of the run to end, times their number, plus its rank; 0 if none does."""
    signals = interruptions()
    told = (signals.received if signals is not None else None) or 0
    return processes.largest(told and told * processes.size() + processes.rank())


def _heed_signals() -> None:
    """Have signals end the run at once from here on, and one that has waited since the last step now."""
    _take_signals(patient=False)
    if stop := _told():
        raise _interrupted(*divmod(stop, processes.size()))


def _take_signals(*, patient: bool) -> None:
    """Have signals (again) wait for the end of a training step, or not."""
    if (signals := interruptions()) is not None:
        signals.install()
        signals.patient = patient


def read_checkpoint(path: Path, map_location: Any = None) -> dict[str, Any]:
    """The content of a checkpoint; nothing in it is executed.

    Raises:
        UserError: it is truncated, damaged or no checkpoint of ours.
        OSError: it cannot be read.
    """
    content = io.BytesIO(path.read_bytes())
    try:
        check_archive(content, content.getbuffer().nbytes)
        content.seek(0)
        found = torch.load(content, map_location=map_location, weights_only=True)
        if not isinstance(found, dict) or not isinstance(found.get("state_dict"), dict):
            raise TypeError("no checkpoint of this program")
    except Exception as error:  # what a damaged zip archive or its index makes of itself has many names
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} cannot be resumed from ({reason}); begin anew with force=true") from error
    return found


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file that is either the old one or all of the new one, whenever the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(scratch, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a failed write does not say where
        raise
    finally:
        scratch.unlink(missing_ok=True)
