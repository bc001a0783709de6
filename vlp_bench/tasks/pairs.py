"""NLVR2: prune once, learn to tell true sentences about two images from false ones, measure how many are told apart."""

from typing import Protocol

import torch
from torch import Tensor

from vlp_bench.batch import Batch
from vlp_bench.tasks.classification import Measured


class PairModel(Protocol):
    """What the task asks of a model."""

    def judge(self, images: Tensor, ids: Tensor, atts: Tensor | None) -> Tensor:
        """(2 b, 3, h, w) images, those of a pair one after the other, and (b, t) sentences -> (b, 2) logits."""
        ...

    def pair_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Losses by name, all of one weight."""
        ...


class Pairs(Measured):
    """Fine-tunes a PairModel with cross entropy; arguments as for `FineTuning`, `becomes` makes the model."""

    LEGEND = "in % (half of the sentences are true)"
    model: PairModel

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        return self.model.pair_losses(batch)

    def scores(self, batch: Batch) -> Tensor:
        """(b, 2): false, true."""
        assert batch.text_ids is not None, "a batch of pairs has sentences"
        return self.model.judge(batch.images, batch.text_ids, batch.text_atts)
