"""What every fine-tuning of a pruned model shares: prune once, become the task's model, train by the recipe."""

from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar, TypedDict

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from vlp_bench import processes
from vlp_bench.batch import Batch
from vlp_bench.models.checkpoints.inherit import inherited
from vlp_bench.models.xvlm.towers import resize_positions
from vlp_bench.tasks.optimisation import Diverged, check_recipe, warmed_adamw

POSITIONS = "vision_encoder.embeddings.position_embedding"  # of XVLM, whose two stages differ in image size
TaskModel = Callable[[nn.Module], nn.Module]
"""The pre-trained (and pruned) model -> the model of a task that starts from its weights."""


class FineTuningArguments(TypedDict, total=False):
    """The arguments of `FineTuning`, by name, for the subclasses that hand them on."""

    pruner: Callable[[nn.Module], None] | None
    task_model: TaskModel | None
    lr: float
    betas: tuple[float, float]
    weight_decay: float
    schedule: str
    warmup: float
    fused: bool
    image_size: int | None
    start: str | None
    seed: int


class FineTuning(LightningModule):
    """A task on a pruned model. Subclasses say what its losses are and how it is measured.

    The pruner is called on the pre-trained model once, here, and never again; images are resized after it, and only
    then the task's model is made, so that it inherits what was pruned. To resume a sparse run hand over a pruner that
    installs the stored mask, then load the checkpoint.

    Args:
        model: the pre-trained model.
        pruner: changes the model in place; None trains it dense.
        task_model: makes the task's model of it; None fine-tunes the pre-trained model itself.
        lr, betas, weight_decay: of AdamW; lr is the peak.
        schedule: how the rate falls after the warm-up, "linear" or "cosine".
        warmup: share of the optimiser steps in which the rate rises.
        fused: AdamW's step in one kernel: a quarter of its time on a processor, other last digits; can't be clipped.
        image_size: side of the images to fine-tune on where it is not the one the model was pruned at (the papers: 384
            after 224); the model's table of positions is resized after pruning.
        start: a checkpoint (best.ckpt) of an earlier run of the same task and mask to go on from, in a second stage.
        seed: of everything drawn in a training step; each step has its own draw, so a resumed run makes the same ones.

    Raises:
        ValueError: an argument is out of its range.
    """

    HEADLINES: ClassVar[tuple[str, ...]] = ()  # what a comparison shows, in this order
    MONITOR: ClassVar[str] = ""  # the epoch with the largest on validation is tested
    LEGEND: ClassVar[str] = "in %"

    def __init__(
        self,
        model: nn.Module,
        *,
        pruner: Callable[[nn.Module], None] | None = None,
        task_model: TaskModel | None = None,
        lr: float = 3e-5,
        betas: tuple[float, float] = (0.9, 0.98),
        weight_decay: float = 0.01,
        schedule: str = "linear",
        warmup: float = 0.1,
        fused: bool = False,
        image_size: int | None = None,
        start: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_recipe(lr=lr, betas=betas, weight_decay=weight_decay, schedule=schedule, warmup=warmup)
        if start is not None and not Path(start).is_file():
            raise ValueError(f"start={start}: there is no such checkpoint; give the best.ckpt of the first stage's run")
        self.recipe: dict[str, Any] = {
            "lr": lr, "betas": tuple(betas), "weight_decay": weight_decay, "schedule": schedule, "warmup": warmup,
            "fused": fused,
        }  # fmt: skip
        self.seed = seed
        self.notes: dict[str, str] = {}
        self._streams: dict[str, Tensor] = {}
        if pruner is not None:
            pruner(model)
        if image_size is not None:
            model.resize_images(image_size)  # pyright: ignore[reportCallIssue]
        self.model: Any = model if task_model is None else task_model(model)
        if start is not None:
            self._go_on_from(Path(start))

    @property
    def monitor(self) -> str:
        """The metric whose best validation epoch is tested."""
        return self.MONITOR

    @classmethod
    def check(cls, data: Any, *, trained: bool, **arguments: Any) -> None:
        """Before anything is pruned: ValueError if the task's arguments do not fit the data it is for."""

    def meet(self, data: Any) -> None:
        """See the data module before the training on it begins. ValueError if the two do not fit."""

    def task_masks(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Masks of the pre-trained model -> those of the task's model, by its parameters' names.

        A weight that came from a pruned one is pruned as it was; a mask without an heir (a part that was left behind)
        is dropped.
        """
        if hasattr(self.model, "pretrained_name"):
            return {name: masks[source] for name, source in inherited(self.model).items() if source in masks}
        names = {name for name, _ in self.model.named_parameters()}
        return {name: mask for name, mask in masks.items() if name in names}

    def _go_on_from(self, file: Path) -> None:
        """Load the weights of an earlier stage; its table of positions is resized to the images of this one."""
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
            for name, current in self.state_dict().items():
                if POSITIONS in name and name in state and state[name].is_floating_point():
                    state[name] = resize_positions(state[name].flatten(0, -2), current.shape[-2]).view_as(current)
            self.load_state_dict(state)
        except (RuntimeError, KeyError, UnpicklingError, EOFError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"start={file} is no checkpoint of this task and model: {reason}") from error

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses by name, all of one weight; `generator` is this step's own."""
        raise AssertionError("a task has losses")

    def configure_optimizers(self) -> dict[str, Any]:
        total = int(self.trainer.estimated_stepping_batches)
        optimiser, rate = warmed_adamw(self, total=total, **self.recipe)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def log_of_all(self, split: str, values: Mapping[str, Any]) -> None:
        """Log what metrics have gathered: the same number on all processes, whose largest it is to the last bit."""
        self.log_dict({f"{split}/{name}": value for name, value in values.items()}, sync_dist=True, reduce_fx="max")

    # Training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses = self._losses(batch, batch_idx)
        of_this_process = torch.stack(list(losses.values()))
        means = processes.mean(of_this_process)
        if not bool(means.isfinite().all()):
            raise self._diverged(batch_idx, ", ".join(f"{n} {float(v):g}" for n, v in zip(losses, means, strict=True)))
        named = {f"train/{name}": value for name, value in zip(losses, means, strict=True)}
        self.log_dict(named, batch_size=batch.examples)
        self.log("train/loss", means.sum(), prog_bar=True, batch_size=batch.examples)
        return of_this_process.sum()

    def _losses(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        try:
            return self.losses(batch, self._step_generator(batch_idx))
        except RuntimeError as error:  # negatives cannot be drawn by similarities that are no numbers
            if all(bool(p.isfinite().all()) for p in self.parameters()):
                raise
            raise self._diverged(batch_idx, "weights that are not finite") from error

    def _diverged(self, batch_idx: int, what: str) -> Diverged:
        return Diverged(
            f"the loss is not a number at optimiser step {self.global_step} (epoch {self.current_epoch}, batch "
            f"{batch_idx}): {what}; lower task.lr ({self.recipe['lr']:g}) or check the weights it started from"
        )

    def _step_generator(self, batch_idx: int) -> torch.Generator:
        """The generator of one batch: a function of seed, epoch and batch, with no state to lose on resume.

        All processes have the same: they draw from the batch of all.
        """
        words = (self.seed, self.current_epoch, batch_idx, 0)
        return torch.Generator().manual_seed(mixed(words))

    # Dropout draws from the process's own stream: a checkpoint holds those of all processes, one row each, and puts
    # them back, so that a resumed run drops the same.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["rng_state"] = processes.gather(torch.get_rng_state()[None])
        if self.device.type == "cuda":
            checkpoint["cuda_rng_state"] = processes.gather(torch.cuda.get_rng_state(self.device)[None])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._streams = {name: checkpoint[name].cpu() for name in ("rng_state", "cuda_rng_state") if name in checkpoint}

    def on_train_start(self) -> None:
        streams, self._streams = self._streams, {}
        if processes.size() > 1:  # or all of them would drop the same
            torch.manual_seed(mixed((self.seed, self.current_epoch, processes.rank())))
        states = {
            name: rows[processes.rank()].clone() for name, rows in streams.items() if len(rows) == processes.size()
        }
        if "rng_state" in states:
            torch.set_rng_state(states["rng_state"])
        if "cuda_rng_state" in states and self.device.type == "cuda":
            torch.cuda.set_rng_state(states["cuda_rng_state"], self.device)


def mixed(words: tuple[int, ...]) -> int:
    """One 63-bit seed from several small ones, without (0, 1) and (1, 0) meeting."""
    result = 0
    for word in words:
        result = (result * 6364136223846793005 + word + 1442695040888963407) % 2**64
        result ^= result >> 29
    return result >> 1
