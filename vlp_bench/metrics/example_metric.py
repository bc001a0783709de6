"""What every metric here has in common: predictions known by their example's number, brought together by torchmetrics.

Processes that share a split each tell their metric about their own examples. `compute` sees those of all processes in
the order of their numbers, each once: what a `DistributedSampler` repeats to even its processes out is not counted
twice, and the result is that of a single process to the last bit.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class ExampleMetric(Metric):
    """Columns of numbers, a row per example. Subclasses `keep` rows in `update` and read `rows` in `compute`.

    Args:
        columns: name -> dtype of what is kept of an example beside its number (int64).
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    def __init__(self, **columns: torch.dtype) -> None:
        super().__init__()
        self.columns: dict[str, torch.dtype] = {}
        self.add_columns(numbers=torch.int64, **columns)

    def add_columns(self, **columns: torch.dtype) -> None:
        """States that are lists of tensors (n,), joined over time and over the processes."""
        self.columns |= columns
        for name in columns:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def keep(self, numbers: Tensor, **values: Tensor) -> None:
        """Rows of the examples `numbers` (b,); `values` are (b,) each, by column. ValueError for another length."""
        for name, value in ({"numbers": numbers} | values).items():
            if value.shape != numbers.shape or numbers.ndim != 1:
                raise ValueError(f"{name} must be ({len(numbers)},), one for each number, got {tuple(value.shape)}")
            getattr(self, name).append(value.detach().to(self.device, self.columns[name]))

    def column(self, name: str) -> Tensor:
        """(n,) all that was kept under a name, as it came."""
        state = getattr(self, name)
        return state if isinstance(state, Tensor) else torch.cat([self._nothing(name), *state])

    def rows(self) -> Tensor:
        """(n,) places in the columns: every example once, in the order of the numbers."""
        numbers = self.column("numbers")
        order = numbers.argsort(stable=True)
        first = torch.ones_like(order, dtype=torch.bool)
        first[1:] = numbers[order][1:] != numbers[order][:-1]
        return order[first]

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """As torchmetrics gathers, but a process without examples sends an empty column of the right type."""
        for name in self.columns:
            if not len(getattr(self, name)):
                getattr(self, name).append(self._nothing(name))
        super().sync(*args, **kwargs)

    def tensors(self, values: Mapping[str, float]) -> dict[str, Tensor]:
        """The values as float32 scalars on the metric's device."""
        return {name: torch.tensor(value, dtype=torch.float32, device=self.device) for name, value in values.items()}

    def _nothing(self, name: str) -> Tensor:
        return torch.empty(0, dtype=self.columns[name], device=self.device)


class TextMetric(ExampleMetric):
    """One text per example. Texts travel as their UTF-8 bytes and how many of them each has."""

    def __init__(self) -> None:
        super().__init__(lengths=torch.int64)
        self.add_columns(characters=torch.uint8)

    def keep_texts(self, numbers: Tensor, texts: Sequence[str]) -> None:
        """A text for each of the examples `numbers` (b,)."""
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        self.keep(numbers, lengths=torch.tensor([len(text) for text in encoded], dtype=torch.int64))
        self.characters: Any
        self.characters.append(torch.tensor(list(b"".join(encoded)), dtype=torch.uint8, device=self.device))

    def predictions(self) -> dict[int, str]:
        """Number -> text, of all processes, each of which must call this."""
        with self.sync_context(should_sync=self.sync_on_compute):
            return self.texts()

    def texts(self) -> dict[int, str]:
        """Number -> text, of the processes that have been gathered so far (inside `compute`: all)."""
        lengths = self.column("lengths")
        ends = lengths.cumsum(0)
        characters = bytes(self.column("characters").tolist())
        rows = self.rows()
        spans = zip(self.column("numbers")[rows].tolist(), (ends - lengths)[rows].tolist(), ends[rows].tolist())
        return {number: characters[start:end].decode("utf-8", "surrogatepass") for number, start, end in spans}

    def needed(self, count: int, what: str) -> list[str]:
        """The texts of examples 0 to `count` - 1. ValueError if one is missing: a part is not the whole."""
        texts = self.texts()
        if missing := count - sum(number in texts for number in range(count)):
            raise ValueError(f"{missing} of {count} {what} have no prediction; evaluate the whole split")
        return [texts[number] for number in range(count)]
