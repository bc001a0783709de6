"""Images by class: by a model's own labels, or by which sentence about a class is nearest (CLIP and its kind)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vlp_bench.data.datasets.evaluated import CLASSES, Classes
from vlp_bench.data.readers import checked
from vlp_bench.data.readers.calibration_sets import opened
from vlp_bench.metrics.classification import class_ranks
from vlp_bench.models.foreign.embedding import compares, embedded
from vlp_bench.models.foreign.inputs import Inputs
from vlp_bench.tasks.foreign.retrieval import embeddings
from vlp_bench.tasks.foreign.task import Measured, Watch, check_counts, chunks

IN_ORDER = "the classes are numbered in the order of their folders' names: none is a label of the model's"


@dataclass(frozen=True)
class Classification:
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
            sentences = embeddings(model, told, inputs.texts, lambda parts: watch(parts, "sentences"), self.batch_size)
        else:
            numbers, by_name = self._numbers(model, data)
            notes = {} if by_name else {"accuracy": IN_ORDER}
        ranks: list[Tensor] = []
        for part in watch(chunks(data.records, self.batch_size), "images"):
            logits = _logits(model, inputs, [opened(data.images, record.image) for record in part], sentences)
            ranks.append(class_ranks(logits, torch.tensor([numbers[record.label] for record in part])))
        classes = len(model.config.id2label or ()) if sentences is None else len(sentences)
        return Measured(_accuracies(torch.cat(ranks), classes), notes)

    def _numbers(self, model: PreTrainedModel, data: Classes) -> tuple[list[int], bool]:
        """The model's number of each class folder, and whether they were found by name."""
        if self.labels is not None:
            return _named(data, [index_file(Path(self.labels))] * 2, f"task.labels={self.labels}"), True
        known = _plain_labels(model.config.id2label or {})
        found = [(folder, name) for folder, name in _called(data) if _plain(folder) in known or _plain(name) in known]
        if not found and len(data.folders) == len(model.config.id2label or ()):
            return list(range(len(data.folders))), False
        return _named(data, [known, known], "the labels of the model's config.json"), True


def _called(data: Classes) -> list[tuple[str, str]]:
    """(folder, what it is called) by label."""
    return list(zip(data.folders, data.labelled.names, strict=True))


def _named(data: Classes, known: Sequence[Mapping[str, int]], where: str) -> list[int]:
    """Numbers of folders by their names or what they are called. ValueError for one that is not known."""
    by_folder, by_name = known
    found = [by_folder.get(_plain(folder), by_name.get(_plain(name))) for folder, name in _called(data)]
    missing = [folder for folder, number in zip(data.folders, found, strict=True) if number is None]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(data.folders)} class folders, the first is {missing[0]}, are not in {where}: give "
            "a class index file with task.labels=FILE, or what folders are called with data.names=FILE"
        )
    return [number for number in found if number is not None]


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", " ")


def _plain_labels(labels: Mapping[Any, str]) -> dict[str, int]:
    """Every name of a label ("tench, Tinca tinca") -> its number; the first number that has it counts."""
    pairs = [(_plain(name), int(number)) for number, label in labels.items() for name in (label, *label.split(","))]
    return dict(reversed(pairs))


def index_file(path: Path) -> dict[str, int]:
    """Names of folders and classes -> number, of a class index file.

    Raises:
        ValueError: no such file, or another form.
    """
    if path.suffix != ".json":
        rows = [line.split(maxsplit=1) for line in checked.lines(path)]
        return {_plain(name): number for number, row in reversed(list(enumerate(rows))) for name in row}
    content = checked.load(path)
    try:
        return {_plain(name): int(number) for number, names in content.items() for name in names}
    except (AttributeError, TypeError, ValueError):
        got = checked.brief(json.dumps(content))
        raise ValueError(f'{path}: expected {{"0": ["n01440764", "tench"], ...}}, got {got}') from None


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
