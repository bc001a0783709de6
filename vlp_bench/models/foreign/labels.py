"""Which of a classifier's labels a class folder stands for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from vlp_bench.data.readers import checked


@dataclass(frozen=True)
class Numbers:
    """The label of each folder; `missing`: folders without one. `by_name`: they were found by their names."""

    numbers: Sequence[int]
    missing: Sequence[str] = ()
    by_name: bool = True


def label_numbers(
    model: PreTrainedModel, folders: Sequence[str], names: Sequence[str], index: Mapping[str, int] | None = None
) -> Numbers:
    """By a class index, else by the labels of the model's configuration.

    A folder is found by its own name or by what it is called. Where none is and there are as many folders as labels,
    they are numbered in their order, as ImageNet's are.

    Args:
        folders: in the order of their names.
        names: what they are called.
        index: plain name -> number, see `index_file`.
    """
    own = model.config.id2label or {}
    known = _plain_labels(own) if index is None else index
    found = [known.get(_plain(f), known.get(_plain(n))) for f, n in zip(folders, names, strict=True)]
    if index is None and len(folders) == len(own) and not any(number is not None for number in found):
        return Numbers(range(len(folders)), by_name=False)
    missing = [folder for folder, number in zip(folders, found, strict=True) if number is None]
    return Numbers([number for number in found if number is not None], missing)


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", " ")


def _plain_labels(labels: Mapping[Any, str]) -> dict[str, int]:
    """Every name of a label ("tench, Tinca tinca") -> its number; the first number that has it counts."""
    pairs = [(_plain(name), int(number)) for number, label in labels.items() for name in (label, *label.split(","))]
    return dict(reversed(pairs))


def index_file(path: Path) -> dict[str, int]:
    """Plain names of folders and classes -> number, of a class index file.

    It holds `{"0": ["n01440764", "tench"], ...}`, or a line a class ("n01440764 tench").

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
