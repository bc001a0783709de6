"""Passes over calibration batches: what a model does with them is watched, and the model is left as it was."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from vlp_bench import processes
from vlp_bench.pruning.adapter import Adapter, adapter_for
from vlp_bench.pruning.checks import Compat
from vlp_bench.pruning.layers import Layer, find_layers
from vlp_bench.pruning.statistics.batches import (
    RandomState,
    Snapshot,
    as_released,
    fingerprint,
    moved_to,
    parts_of,
    tensors_in,
)
from vlp_bench.pruning.statistics.data_parallel import data_parallel
from vlp_bench.pruning.statistics.gradients import accumulate_gradients, move
from vlp_bench.pruning.statistics.input_norms import InputNorms, InputOrder

log = logging.getLogger(__name__)


class Passes:
    """Runs a model over calibration batches, forwards or backwards; modes, gradients, hooks and random state stay.

    Args: as those of `Calibration`, which remembers what is found here.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Any] | None,
        adapter: Adapter | None,
        seed: int,
        num_batches: int | None,
        first_batch: int,
        shared: bool,
    ) -> None:
        if num_batches is not None and num_batches < 1:
            raise ValueError(f"num_batches must be at least 1, got {num_batches}")
        if batches is not None and iter(batches) is batches:
            raise ValueError("calibration batches can be read only once: pass a list or a DataLoader, not an iterator")
        self.model, self.batches, self.adapter = model, batches, adapter_for(model, adapter)
        self.seed, self.num_batches, self.first_batch = seed, num_batches, first_batch
        self.shared = shared and processes.size() > 1
        self.layers: dict[str, Layer] = find_layers(model, self.adapter)
        self.losses: list[float] = []  # of the last gradient pass, one per part, in order
        self.data_hash: str | None = None  # of the batches that were seen
        self.one_step = False  # of a schedule: scores are kept (4 bytes a weight), not computed anew

    def order(self) -> list[str]:
        """The layers in the order in which the first batch reaches them; those it doesn't reach come last."""
        found = InputOrder(self.layers.values())
        with found.watching(), self._undisturbed(), torch.no_grad():
            _, parts = next(self._parts())
            for part in parts:
                self.adapter.encode(self.model, part)
        return [*found.sums, *(name for name in self.layers if name not in found.sums)]

    def count(self) -> tuple[int, int]:
        """The number of batches, and the rows of the first: images, over all its parts."""
        rows, batches = 0, 0
        with self._undisturbed():
            for _, parts in self._parts():
                rows = rows or sum(self.adapter.rows(part) for part in parts)
                batches += 1
        return batches, rows

    def gradients_of_batches(self, *, training: bool = False) -> Iterator[dict[str, Tensor]]:
        """For every batch the gradients of its loss (the mean over its parts), by layer, in the parameters' shapes.

        A layer the loss doesn't reach is missing. The dictionary is emptied before the next batch. The weights may be
        changed in between; `training` asks in training mode (dropout).
        """
        own: dict[str, Tensor] = {}
        self.losses = []
        with (
            self._undisturbed(training=training),
            accumulate_gradients(self.model, self.layers, own),
            torch.enable_grad(),
        ):
            for number, parts in self._parts():
                own.clear()
                for part in parts:
                    self._backward(part, len(parts), number)
                refuse_infinite(own, f"the gradients of {{}} in calibration batch {number}")
                yield own

    def losses_of_batches(self, batches: int) -> Iterator[Callable[[], float]]:
        """For each of the first `batches` batches a function that computes its loss at the weights as they are.

        Every call starts from the same random state, and leaves buffers and what is frozen beside trained parameters
        as they were (queues, momentum copies; a copy of them is kept meanwhile).

        Raises:
            ValueError: a loss that isn't finite.
        """
        limit = batches if self.num_batches is None else min(batches, self.num_batches)
        with self._undisturbed(), torch.no_grad():
            kept = Snapshot(self.side_states())
            for number, parts in self._parts(limit):
                state = RandomState(next(iter(self.layers.values())).weight.device)
                yield lambda number=number, parts=parts, state=state: self._loss(parts, number, state, kept)
                state.restore()

    def side_states(self) -> list[Tensor]:
        """What a loss may change on the side: buffers, and frozen parameters unless all are."""
        prunable = {id(layer.weight) for layer in self.layers.values()}
        frozen = [p for p in self.model.parameters() if not p.requires_grad and id(p) not in prunable]
        all_frozen = not any(p.requires_grad for p in self.model.parameters())
        return [*self.model.buffers(), *([] if all_frozen else frozen)]

    def _loss(self, parts: list[Any], number: int, state: RandomState, kept: Snapshot) -> float:
        state.restore()
        try:
            loss = sum(float(self.adapter.loss(self.model, part)) / len(parts) for part in parts)
        finally:
            kept.restore()
        if not math.isfinite(loss):
            raise ValueError(f"the loss of calibration batch {number} is {loss}")
        return loss

    def _inputs(self, found: InputNorms, compat: Compat) -> Iterator[int]:
        """The number of every batch, once what reaches the layers in it has been added."""
        if not self.shared:
            for number, parts in self._parts():
                self._encode(found, parts, compat)
                yield number
            return
        names = list(self.layers)

        def compute(number: int, parts: list[Any]) -> list[Tensor]:
            found.journal = []
            self._encode(found, parts, compat)
            calls, found.journal = found.journal, None
            heads = torch.tensor([[names.index(name), rows] for name, rows, _ in calls], dtype=torch.int64)
            return [heads.view(-1, 2), *(total for *_, total in calls)]

        for number, (heads, *totals) in data_parallel(self._parts(), compute, self._device):
            for (index, rows), total in zip(heads.tolist(), totals, strict=True):
                found.take(names[index], rows, total)
            yield number

    def _encode(self, found: InputNorms, parts: list[Any], compat: Compat) -> None:
        for part in parts:
            shown = as_released(part) if compat == "official" else part
            found.new_part(lambda name, tokens, shown=shown: self.adapter.token_mask(shown, name, tokens))
            self.adapter.encode(self.model, part)

    def _gradients_in_order(self) -> Iterator[dict[str, Tensor]]:
        """As `gradients_of_batches`, for weights that stay as they are meanwhile: processes share the batches."""
        if not self._shares_gradients:
            yield from self.gradients_of_batches()
            return
        for number, parts in self._dealt_gradients():
            own: dict[str, Tensor] = {}
            for part in parts:
                move(part, own)
            refuse_infinite(own, f"the gradients of {{}} in calibration batch {number}")
            yield own

    @property
    def _shares_gradients(self) -> bool:
        """A loss with a memory (queues, momentum copies) must see the batches one after the other, on every process."""
        return self.shared and not any(state.is_floating_point() for state in self.side_states())

    def _dealt_gradients(self) -> Iterator[tuple[int, list[dict[str, Tensor]]]]:
        """The number of every batch and the gradients of each of its parts by layer, from whichever process has it."""
        names, own = list(self.layers), dict[str, Tensor]()
        self.losses = []

        def compute(number: int, parts: list[Any]) -> list[Tensor]:
            heads, tensors = [], []
            for part in parts:
                own.clear()
                self._backward(part, len(parts), number)
                heads.append([float(name in own) for name in names] + [self.losses.pop()])
                tensors += [own[name] for name in names if name in own]
            own.clear()
            return [torch.tensor(heads, dtype=torch.float64), *tensors]

        with self._undisturbed(), accumulate_gradients(self.model, self.layers, own), torch.enable_grad():
            for number, (heads, *tensors) in data_parallel(self._parts(), compute, self._device):
                left, found = iter(tensors), []
                for *there, loss in heads.tolist():
                    found.append({name: next(left) for name, is_there in zip(names, there, strict=True) if is_there})
                    self.losses.append(loss)
                yield number, found

    def _backward(self, part: Any, parts: int, number: int) -> None:
        loss = self.adapter.loss(self.model, part) / parts
        self.losses.append(float(loss.detach()))
        if not torch.isfinite(loss.detach()):
            raise ValueError(f"the loss of calibration batch {number} is {self.losses[-1]}")
        loss.backward()

    @contextmanager
    def _undisturbed(self, *, training: bool = False) -> Iterator[None]:
        """Evaluation (or training) mode and an own random stream; both are as before afterwards."""
        modes = [(module, module.training) for module in self.model.modules()]
        device = self._device
        with processes.apart(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.default_generator.manual_seed(self.seed)
            if device.type == "cuda":
                torch.cuda.manual_seed(self.seed)
            self.model.train(training)
            try:
                yield
            finally:
                for module, training in modes:
                    module.training = training

    @property
    def _device(self) -> torch.device:
        return next(iter(self.layers.values())).weight.device

    def _parts(self, limit: int | None = None) -> Iterator[tuple[int, list[Any]]]:
        """The number and the parts of every batch (of the first `limit`), on the model's device."""
        if self.batches is None:
            raise ValueError("this pruner asks the data: pass calibration=batches")
        device = self._device
        count = self.num_batches if limit is None else limit
        last = None if count is None else self.first_batch + count
        digest, seen = hashlib.sha256(), 0
        for number, batch in enumerate(islice(self.batches, self.first_batch, last), self.first_batch):
            parts = parts_of(batch)
            for tensor in tensors_in(parts):
                digest.update(fingerprint(tensor))
            drawing = RandomState(device)
            torch.manual_seed(self.seed + 1_000_003 * number)
            yield number, [moved_to(part, device) for part in parts]
            drawing.restore()  # what a batch's losses draw is its own affair, whoever computes the ones before it
            seen += 1
        if not seen:
            where = f" after the first {self.first_batch} batches" if self.first_batch else ""
            raise ValueError(f"the calibration set is empty{where}: at least one batch is needed")
        if limit is None and count is not None and seen < count:
            log.warning("%d calibration batches were asked for, the set has only %d", count, seen)
        self.data_hash = digest.hexdigest()


def refuse_infinite(tensors: Mapping[str, Tensor], what: str) -> None:
    """Raises ValueError with the first name in place of `{}` if a tensor isn't finite; one look at the device."""
    if tensors and not torch.isfinite(torch.stack([tensor.sum().float() for tensor in tensors.values()])).all():
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise ValueError(what.format(repr(name)) + " hold NaN or infinity")
