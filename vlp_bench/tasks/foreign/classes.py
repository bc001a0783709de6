"""Images by class: by a model's own labels, or by which sentence about a class is nearest (CLIP and its kind)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vlp_bench.data.datasets.evaluated import CLASSES, Classes
from vlp_bench.data.readers.calibration_sets import opened
from vlp_bench.metrics.classification import class_ranks
from vlp_bench.models.foreign.embedding import compares, embedded
from vlp_bench.models.foreign.inputs import Inputs
from vlp_bench.models.foreign.labels import Numbers, index_file, label_numbers
from vlp_bench.tasks.foreign.retrieval import embeddings
from vlp_bench.tasks.foreign.task import Measured, Watch, check_counts, chunks

IN_ORDER = "the classes are numbered in the order of their folders' names: none is a label of the model's"


@dataclass(frozen=True)
class ClassFolders:
    """Accuracy of the likeliest class, and of the five likeliest where there are more than five.

    Args:
        labels: a class index file, `{"0": ["n01440764", "tench"], ...}` or a line a class ("n01440764 tench"), for a
            model that classifies; null: the labels of its config.json by name, else the folders in the order of their
            names, where there are as many.
        template: a sentence with {} in the place of the class, for a model that compares images and texts.
        batch_size: images at a time.
    """

    READS: ClassVar[str] = CLASSES
    NEEDS: ClassVar[str] = "ViT, EVA and others with a classifier of images; CLIP and SigLIP by sentences"
    labels: str | None = None
    template: str = "a photo of a {}."
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_counts(batch_size=self.batch_size)
        if "{}" not in self.template:
            raise ValueError(f"task.template={self.template!r}: it needs {{}} where the class comes")

    def fits(self, model: PreTrainedModel) -> bool:
        return compares(model) or type(model).__name__.endswith("ForImageClassification")

    def measure(self, model: PreTrainedModel, inputs: Inputs, data: Classes, watch: Watch) -> Measured:
        sentences, notes = None, {}
        if compares(model):
            numbers = list(range(len(data.folders)))
            told = [self.template.replace("{}", name) for name in data.labelled.names]
            notes = {"sentences": cut} if (cut := inputs.cut(told)) else {}
            sentences = embeddings(model, told, inputs.texts, lambda parts: watch(parts, "sentences"), self.batch_size)
        else:
            found = self._numbers(model, data)
            numbers, notes = found.numbers, {} if found.by_name else {"accuracy": IN_ORDER}
        ranks: list[Tensor] = []
        for part in watch(chunks(data.records, self.batch_size), "images"):
            logits = _logits(model, inputs, [opened(data.images, record.image) for record in part], sentences)
            ranks.append(class_ranks(logits, torch.tensor([numbers[record.label] for record in part])))
        classes = len(model.config.id2label or ()) if sentences is None else len(sentences)
        return Measured(_accuracies(torch.cat(ranks), classes), notes)

    def _numbers(self, model: PreTrainedModel, data: Classes) -> Numbers:
        """The model's number of each class folder. ValueError for one that the labels don't have."""
        file = None if self.labels is None else Path(self.labels)
        found = label_numbers(model, data.folders, data.labelled.names, None if file is None else index_file(file))
        if found.missing:
            where = "the labels of the model's config.json" if file is None else f"task.labels={file}"
            raise ValueError(
                f"{len(found.missing)} of {len(data.folders)} class folders, the first is {found.missing[0]}, are not "
                f"in {where}: give a class index file with task.labels=FILE, or what folders are called with "
                "data.names=FILE"
            )
        return found


@torch.inference_mode()
def _logits(model: PreTrainedModel, inputs: Inputs, images: Sequence[Any], sentences: Tensor | None) -> Tensor:
    """(b, classes) on the processor."""
    batch = inputs.images(images)
    if sentences is not None:
        return (embedded(model, batch) @ sentences.T).cpu()
    return model(**{name: tensor.to(model.device) for name, tensor in batch.items()}).logits.float().cpu()


def _accuracies(ranks: Tensor, classes: int) -> dict[str, float]:
    limits = {"accuracy": 0.5, "top5": 4.5} if classes > 5 else {"accuracy": 0.5}
    return {name: 100 * float((ranks < limit).double().mean()) for name, limit in limits.items()}
