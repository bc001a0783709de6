"""Images ask for their captions and captions for their images, by the cosine of their embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vlp_bench.data.datasets.evaluated import CAPTIONS
from vlp_bench.data.readers.calibration_sets import opened
from vlp_bench.metrics.recall import certain_recalls, ranks, retrieval_metrics
from vlp_bench.models.foreign.embedding import compares, embedded
from vlp_bench.models.foreign.inputs import Batch, Inputs
from vlp_bench.tasks.foreign.task import Measured, Watch, check_counts, chunks

AT_ONCE = 512
"""Queries whose scores are in memory together."""


@dataclass(frozen=True)
class CosineRetrieval:
    """Recall at 1, 5 and 10 both ways; every caption of an image is a right answer.

    Args:
        batch_size: images or texts at a time.
    """

    READS: ClassVar[str] = CAPTIONS
    NEEDS: ClassVar[str] = "CLIP, SigLIP and others that embed images and texts apart"
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_counts(batch_size=self.batch_size)

    def fits(self, model: PreTrainedModel) -> bool:
        return compares(model)

    def measure(self, model: PreTrainedModel, inputs: Inputs, data: Any, watch: Watch) -> Measured:
        images = embeddings(
            model,
            [record.image for record in data.records],
            lambda keys: inputs.images([opened(data.images, key) for key in keys]),
            lambda parts: watch(parts, "images"),
            self.batch_size,
        )
        texts, owner = zip(
            *((text, n) for n, record in enumerate(data.records) for text in record.captions), strict=True
        )
        told = embeddings(model, texts, inputs.texts, lambda parts: watch(parts, "texts"), self.batch_size)
        owners = torch.tensor(owner)
        notes = {"texts": cut} if (cut := inputs.cut(texts)) else {}
        return Measured(recalls(images, told, owners.to(images.device)), notes | certain_recalls(owners))


def embeddings(
    model: PreTrainedModel,
    items: Sequence[Any],
    make: Callable[[Sequence[Any]], Batch],
    watch: Callable[[Sequence[Any]], Any],
    batch_size: int,
) -> Tensor:
    """(n, e) of length 1, of images or texts that `make` makes batches of."""
    return torch.cat([embedded(model, make(part)) for part in watch(chunks(items, batch_size))])


def recalls(images: Tensor, texts: Tensor, owner: Tensor) -> dict[str, float]:
    """Both directions, in percent.

    Args:
        images: (m, e) of length 1.
        texts: (t, e) of length 1.
        owner: (t,) int64, the image each text describes.
    """
    numbers = torch.arange(len(images), device=owner.device)
    of_images = _ranks(images, texts, lambda own: owner[None, :] == numbers[own][:, None])
    of_texts = _ranks(texts, images, lambda own: owner[own][:, None] == numbers[None, :])
    return retrieval_metrics(of_images, of_texts)


def _ranks(queries: Tensor, gallery: Tensor, right: Callable[[slice], Tensor]) -> Tensor:
    """(q,) ranks, a few queries at a time: the whole matrix of a large gallery fills the memory."""
    parts = [slice(at, at + AT_ONCE) for at in range(0, len(queries), AT_ONCE)]
    return torch.cat([ranks(queries[part] @ gallery.T, right(part)) for part in parts])
