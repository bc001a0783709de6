"""An adapter around another, for those that answer some of its questions in a way of their own."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn

from vlp_bench.batch import Place
from vlp_bench.pruning.adapter import Adapter, modality_mask


class Around:
    """Answers as the given adapter does.

    Three more things may be said to it, that a model's adapter needn't hear: a pass over the batches begins (`rewind`),
    what is encoded next (`shown`), and what blocks give is looked at (`with_outputs`). One may be asked: which tokens
    were chosen (`chosen_tokens`).
    """

    def __init__(self, adapter: Adapter) -> None:
        self.answers = adapter

    def prunable(self, model: nn.Module) -> list[str]:
        return self.answers.prunable(model)

    def place(self, name: str) -> Place:
        return self.answers.place(name)

    def encode(self, model: nn.Module, batch: Any) -> None:
        self.answers.encode(model, batch)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return self.answers.loss(model, batch)

    def token_mask(self, batch: Any, name: str, tokens: int) -> Tensor | None:
        return self.answers.token_mask(batch, name, tokens)

    def modality_mask(self, batch: Any, name: str, tokens: int) -> Tensor | None:
        return modality_mask(self.answers, batch, name, tokens)

    def rows(self, batch: Any) -> int:
        return self.answers.rows(batch)

    def chosen_tokens(self, name: str) -> Tensor | None:
        return chosen_tokens(self.answers, name)

    def rewind(self) -> None:
        rewind(self.answers)

    def shown(self, part: Any, batch: int) -> None:
        shown(self.answers, part, batch)

    def with_outputs(self) -> AbstractContextManager[None]:
        return with_outputs(self.answers)


def chosen_tokens(adapter: Adapter, name: str) -> Tensor | None:
    """(rows, tokens) bool, those that count of what a layer reads next, if they have no padding; None: all.

    To be asked once for every reading.
    """
    return adapter.chosen_tokens(name) if isinstance(adapter, Around) else None


def rewind(adapter: Adapter) -> None:
    """Tells an adapter that keeps count of what it encodes that a pass over the batches begins."""
    if isinstance(adapter, Around):
        adapter.rewind()


def shown(adapter: Adapter, part: Any, batch: int) -> None:
    """Shows an adapter that keeps what blocks give a part of a batch (of that number) before it is encoded, its whole
    numbers on the processor.
    """
    if isinstance(adapter, Around):
        adapter.shown(part, batch)


def with_outputs(adapter: Adapter) -> AbstractContextManager[None]:
    """While passes are to run every block to its end, also where an adapter would stop at its last weight's input."""
    return adapter.with_outputs() if isinstance(adapter, Around) else nullcontext()
