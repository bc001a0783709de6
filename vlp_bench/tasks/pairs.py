"""NLVR2: prune once, learn to tell true sentences about two images from false ones, measure how many are told apart."""

from typing import Protocol, Unpack

import torch
from torch import Tensor, nn

from vlp_bench.batch import Batch
from vlp_bench.metrics.classification import class_ranks
from vlp_bench.metrics.consistency import Consistency
from vlp_bench.tasks.classification import Measured
from vlp_bench.tasks.finetuning import FineTuningArguments


class PairModel(Protocol):
    """What the task asks of a model."""

    def judge(self, images: Tensor, ids: Tensor, atts: Tensor | None) -> Tensor:
        """(2 b, 3, h, w) images, those of a pair one after the other, and (b, t) sentences -> (b, 2) logits."""
        ...

    def pair_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Losses by name, all of one weight."""
        ...


class Pairs(Measured):
    """Fine-tunes a PairModel with cross entropy; arguments as for `FineTuning`, `task_model` makes the model."""

    HEADLINES = ("accuracy", "consistency")
    LEGEND = "in % (majority: always saying what is commoner; consistency: sentences judged rightly of all their pairs)"
    model: PairModel

    def __init__(self, model: nn.Module, **shared: Unpack[FineTuningArguments]) -> None:
        super().__init__(model, **shared)
        self.consistency = Consistency()

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        return self.model.pair_losses(batch)

    def scores(self, batch: Batch) -> Tensor:
        """(b, 2): false, true."""
        assert batch.text_ids is not None, "a batch of pairs has sentences"
        return self.model.judge(batch.images, batch.text_ids, batch.text_atts)

    def _measure(self, batch: Batch, numbers: Tensor, logits: Tensor) -> None:
        super()._measure(batch, numbers, logits)
        assert batch.idx is not None, "a batch of pairs has the numbers of its sentences"
        assert batch.labels is not None, "a batch of pairs has labels"
        self.consistency.update(numbers, batch.idx, class_ranks(logits, batch.labels) < 0.5)

    def _end(self, split: str) -> None:
        super()._end(split)
        self.log(f"{split}/consistency", self.consistency)
