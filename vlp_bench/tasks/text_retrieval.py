"""Retrieval among texts: a name asks for its description and the other way round; tested as it is, or fine-tuned."""

from typing import Protocol

import torch
from torch import Tensor

from vlp_bench.batch import Batch
from vlp_bench.metrics.recall import GalleryRecall
from vlp_bench.tasks.finetuning import FineTuning
from vlp_bench.tasks.optimisation import finite

ASKED = {"txt": "doc", "img": "name"}
"""What `GalleryRecall` calls the two directions -> what they are here: who is found."""


class SentenceEncoder(Protocol):
    """What the task asks of a model."""

    def embed_pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Batch of b pairs -> (b, e) names and (b, e) descriptions, of length 1."""
        ...

    def contrastive_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Losses by name, all of one weight."""
        ...


class TextRetrieval(FineTuning):
    """Logs recalls of descriptions by names (`doc_r1`, ...) and of names by descriptions (`name_r1`, ...), by cosine.

    With `recipe.epochs=0` the pruned model is tested as it is; with epochs it is fine-tuned with the contrastive loss.
    """

    HEADLINES = ("doc_r1", "name_r1")
    MONITOR = "r_mean"
    LEGEND = "in % (doc: a name finds its docstring, name: a docstring finds its name)"
    model: SentenceEncoder

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        return self.model.contrastive_losses(batch)

    # Evaluation: every process has the whole gallery

    def on_validation_epoch_start(self) -> None:
        self._embeds: list[tuple[Tensor, Tensor]] = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._embeds.append(self.model.embed_pairs(batch))

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")

    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def _log_metrics(self, split: str) -> None:
        names, texts = (torch.cat(embeds) for embeds in zip(*self._embeds, strict=True))
        self._embeds = []
        recall = pair_recall(finite(names @ texts.T))
        values = {_renamed(name): value for name, value in recall.compute().items()}
        if split == "test":
            self.examples = {f"{ASKED[asked]}_rank": r.cpu() for asked, r in recall.ranks_by_query.items()}
        self.log_of_all(split, values)


def pair_recall(similarity: Tensor) -> GalleryRecall:
    """Both directions' recall of (b, b) similarities whose right answers are on the diagonal."""
    metric, numbers = GalleryRecall().to(similarity.device), torch.arange(len(similarity), device=similarity.device)
    right = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    metric.update("txt", numbers, similarity, right)
    metric.update("img", numbers, similarity.T, right)
    return metric


def _renamed(name: str) -> str:
    """'txt_r1' -> 'doc_r1'; the mean of both directions keeps its name."""
    asked, _, rest = name.partition("_")
    return f"{ASKED[asked]}_{rest}" if asked in ASKED else name
