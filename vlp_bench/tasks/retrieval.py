"""Image-text retrieval: prune once, fine-tune with ITC and ITM, measure with re-ranking (MULTIFLOW, Table 11)."""

from typing import Protocol, Unpack

import torch
from torch import Tensor, nn

from vlp_bench.batch import Batch
from vlp_bench.metrics.recall import certain_recalls
from vlp_bench.tasks.finetuning import FineTuning, FineTuningArguments
from vlp_bench.tasks.gallery import Gallery, Matcher, Share

STORES = ("device", "cpu")


class RetrievalModel(Matcher, Protocol):
    """What the task asks of a model."""

    def retrieval_losses(
        self, batch: Batch, generator: torch.Generator | None = None, *, progress: float = 1.0
    ) -> dict[str, Tensor]:
        """Losses by name, all of one weight; `generator` draws the negatives, `progress`: epochs trained so far."""
        ...


class Retrieval(FineTuning):
    """Fine-tunes a RetrievalModel on retrieval and logs val/ and test/ recalls; `itc_` marks those before re-ranking.

    Args:
        model, shared: see `FineTuning`.
        k_test: candidates per query that are re-ranked; a gallery smaller than that is re-ranked wholly.
        match_batch: pairs matched at a time in evaluation; bounds its memory.
        gallery: where the encoded gallery waits, "device" (fast) or "cpu" (5,000 images at 384 px are 9 GB in fp32).

    Raises:
        ValueError: an argument is out of its range.
    """

    HEADLINES = ("txt_r1", "img_r1")
    MONITOR = "r_mean"
    LEGEND = "in % (itc_: before re-ranking)"
    model: RetrievalModel

    def __init__(
        self,
        model: nn.Module,
        *,
        k_test: int = 256,
        match_batch: int = 256,
        gallery: str = "device",
        **shared: Unpack[FineTuningArguments],
    ) -> None:
        _check_evaluation(k_test, match_batch, gallery)
        super().__init__(model, **shared)
        self.k_test = k_test
        self.match_batch = match_batch
        self.gallery_store = torch.device("cpu") if gallery == "cpu" else None
        self.gallery = Gallery()

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        epochs = self.global_step * (self.trainer.max_epochs or 1) / max(1.0, self.trainer.estimated_stepping_batches)
        return self.model.retrieval_losses(batch, generator=generator, progress=epochs)

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
            reranked = gallery.reranked(self.model, k=self.k_test, pairs=self.match_batch, share=share)
        values = reranked.recall.compute()
        values |= {f"itc_{name}": value for name, value in gallery.contrastive_recall(share).compute().items()}
        if split == "test":
            self.examples, self.notes = reranked.examples(), certain_recalls(gallery.text_image.cpu())
        self.log_of_all(split, values)

    def _sum(self, scores: Tensor) -> Tensor:
        if self.trainer.world_size == 1:
            return scores
        with torch.inference_mode(False):  # processes write into what they exchange, which inference tensors forbid
            return self.trainer.strategy.reduce(scores.clone(), reduce_op="sum")


def _check_evaluation(k_test: int, match_batch: int, gallery: str) -> None:
    for name, value in (("k_test", k_test), ("match_batch", match_batch)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if gallery not in STORES:
        raise ValueError(f"gallery must be one of {', '.join(STORES)}, got {gallery!r}")
