"""NLVR2: prune once, learn to tell true sentences about two images from false ones, measure how many are told apart."""

from typing import Protocol

import torch
from torch import Tensor

from vlp_bench import processes
from vlp_bench.batch import Batch
from vlp_bench.metrics.consistency import consistency
from vlp_bench.tasks.classification import Measured
from vlp_bench.tasks.gathering import Gathered


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
    LEGEND = "in % (half of the sentences are true; consistency: sentences judged rightly of all their pairs)"
    model: PairModel

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        return self.model.pair_losses(batch)

    def scores(self, batch: Batch) -> Tensor:
        """(b, 2): false, true."""
        assert batch.text_ids is not None, "a batch of pairs has sentences"
        return self.model.judge(batch.images, batch.text_ids, batch.text_atts)

    def _start(self) -> None:
        super()._start()
        self.said: list[Tensor] = []

    def _step(self, batch: Batch, batch_idx: int) -> None:
        super()._step(batch, batch_idx)
        assert batch.idx is not None, "a batch of pairs has the numbers of its sentences"
        self.said.append(batch.idx)

    def _end(self, split: str) -> None:
        super()._end(split)
        told, own = Gathered[tuple[int, bool]](), torch.cat(self.said).tolist()
        right = self.accuracy.right().tolist()
        told.add([processes.rank() + processes.size() * j for j in range(len(own))], list(zip(own, right, strict=True)))
        self.log(f"{split}/consistency", consistency(told.whole().values()))
