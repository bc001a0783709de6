"""Image-text retrieval: prune once, fine-tune with ITC and ITM, measure with re-ranking (MULTIFLOW, Table 11)."""

from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from vlp_bench.batch import Batch
from vlp_bench.tasks.gallery import Gallery, Matcher, Share
from vlp_bench.tasks.optimisation import Diverged, check_recipe, warmed_adamw

STORES = ("device", "cpu")


class RetrievalModel(Matcher, Protocol):
    """What the task asks of a model."""

    def retrieval_losses(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Losses by name, all of one weight; `generator` draws the negatives."""
        ...

    def resize_images(self, image_size: int) -> None:
        """Take images of this side from now on."""
        ...


class Retrieval(LightningModule):
    """Fine-tunes `model` on retrieval and logs val/ and test/ recalls; `itc_` marks those before re-ranking.

    The pruner is called on the model once, here, and never again. To resume a sparse run hand over one that installs
    the stored mask, then load the checkpoint.

    Args:
        model: a RetrievalModel.
        pruner: changes the model in place; None trains it dense.
        lr, betas, weight_decay: of AdamW; lr is the peak.
        schedule: how the rate falls after the warm-up, "linear" or "cosine".
        warmup: share of the optimiser steps in which the rate rises.
        k_test: candidates per query that are re-ranked; a gallery smaller than that is re-ranked wholly.
        match_batch: pairs matched at a time in evaluation; bounds its memory.
        gallery: where the encoded gallery waits, "device" (fast) or "cpu" (5,000 images at 384 px are 9 GB in fp32).
        image_size: side of the images to fine-tune on where it is not the one the model was pruned at (the papers: 384
            after 224); the model's table of positions is resized after pruning.
        seed: of the negatives drawn in training; each step has its own draw, so a resumed run makes the same ones.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        pruner: Callable[[nn.Module], None] | None = None,
        lr: float = 3e-5,
        betas: tuple[float, float] = (0.9, 0.98),
        weight_decay: float = 0.01,
        schedule: str = "linear",
        warmup: float = 0.1,
        k_test: int = 256,
        match_batch: int = 256,
        gallery: str = "device",
        image_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_recipe(lr=lr, betas=betas, weight_decay=weight_decay, schedule=schedule, warmup=warmup)
        _check_evaluation(k_test, match_batch, gallery)
        self.recipe: dict[str, Any] = {
            "lr": lr, "betas": tuple(betas), "weight_decay": weight_decay, "schedule": schedule, "warmup": warmup,
        }  # fmt: skip
        self.k_test = k_test
        self.match_batch = match_batch
        self.gallery_store = torch.device("cpu") if gallery == "cpu" else None
        self.seed = seed
        self.gallery = Gallery()
        self._streams: dict[str, Tensor] = {}
        if pruner is not None:
            pruner(model)
        self.model = cast(RetrievalModel, model)
        if image_size is not None:
            self.model.resize_images(image_size)

    def configure_optimizers(self) -> dict[str, Any]:
        total = int(self.trainer.estimated_stepping_batches)
        optimiser, rate = warmed_adamw(self, total=total, **self.recipe)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    # Training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses = self._losses(batch, batch_idx)
        total = torch.stack(list(losses.values())).sum()
        if not bool(total.isfinite()):
            raise self._diverged(batch_idx, ", ".join(f"{name} {float(value):g}" for name, value in losses.items()))
        self.log_dict({f"train/{name}": value.detach() for name, value in losses.items()}, batch_size=len(batch.images))
        self.log("train/loss", total.detach(), prog_bar=True, batch_size=len(batch.images))
        return total

    def _losses(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        try:
            return self.model.retrieval_losses(batch, generator=self._step_generator(batch_idx))
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
        """The generator of one batch: a function of seed, epoch, batch and process, with no state to lose on resume."""
        words = (self.seed, self.current_epoch, batch_idx, self.global_rank)
        return torch.Generator().manual_seed(_mixed(words))

    # Dropout draws from the process's own stream: it is stored and put back, so that a resumed run drops the same.
    # A checkpoint holds the stream of one process; several would all go on with that one's, so they keep their own.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["rng_state"] = torch.get_rng_state()
        if self.device.type == "cuda":
            checkpoint["cuda_rng_state"] = torch.cuda.get_rng_state(self.device)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._streams = {name: checkpoint[name].cpu() for name in ("rng_state", "cuda_rng_state") if name in checkpoint}

    def on_train_start(self) -> None:
        streams, self._streams = self._streams, {}
        if self.trainer.world_size > 1:
            return
        if "rng_state" in streams:
            torch.set_rng_state(streams["rng_state"])
        if "cuda_rng_state" in streams and self.device.type == "cuda":
            torch.cuda.set_rng_state(streams["cuda_rng_state"], self.device)

    # Evaluation

    def on_validation_epoch_start(self) -> None:
        self.gallery = Gallery(self.gallery_store)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.gallery.add(self.model, batch)

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")

    def on_test_epoch_start(self) -> None:
        self.gallery = Gallery(self.gallery_store)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.gallery.add(self.model, batch)

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    @torch.no_grad()
    def _log_metrics(self, split: str) -> None:
        gallery, self.gallery = self.gallery.whole(), Gallery()
        share = Share(self.global_rank, self.trainer.world_size, self._sum)
        with self.trainer.precision_plugin.forward_context():
            metrics = gallery.reranked_metrics(self.model, k=self.k_test, pairs=self.match_batch, share=share)
        metrics |= {f"itc_{name}": value for name, value in gallery.contrastive_metrics().items()}
        self.log_dict({f"{split}/{name}": value for name, value in metrics.items()}, sync_dist=True)

    def _sum(self, scores: Tensor) -> Tensor:
        if self.trainer.world_size == 1:
            return scores
        with torch.inference_mode(False):  # processes write into what they exchange, which inference tensors forbid
            return self.trainer.strategy.reduce(scores.clone(), reduce_op="sum")


def _mixed(words: tuple[int, ...]) -> int:
    """One 63-bit seed from several small ones, without (0, 1) and (1, 0) meeting."""
    mixed = 0
    for word in words:
        mixed = (mixed * 6364136223846793005 + word + 1442695040888963407) % 2**64
        mixed ^= mixed >> 29
    return mixed >> 1


def _check_evaluation(k_test: int, match_batch: int, gallery: str) -> None:
    for name, value in (("k_test", k_test), ("match_batch", match_batch)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if gallery not in STORES:
        raise ValueError(f"gallery must be one of {', '.join(STORES)}, got {gallery!r}")
