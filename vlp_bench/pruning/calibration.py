"""Asks the calibration data once and remembers the answers: squared input norms and gradients of the dense model."""

from __future__ import annotations

import dataclasses
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
from vlp_bench.batch import Batch
from vlp_bench.pruning.adapter import Adapter, adapter_for
from vlp_bench.pruning.archive import Archive, Statistic
from vlp_bench.pruning.batches import RandomState, Snapshot, fingerprint, moved_to, parts_of, tensors_in
from vlp_bench.pruning.checks import Compat, check_compat
from vlp_bench.pruning.dealt import dealt
from vlp_bench.pruning.gradients import Sizes, add_sizes, differentiating, move
from vlp_bench.pruning.inputs import InputNorms, InputOrder, InputProducts
from vlp_bench.pruning.layers import Layer, find_layers

log = logging.getLogger(__name__)


class Calibration:
    """What a model says about a set of batches. Every statistic is computed when first asked for and kept.

    Nothing here depends on a sparsity, so that one pass serves all sparsities and all pruners that need the same. The
    weights must not change in between: `stage()` gives a fresh one when they do.

    Args:
        model: any module; its modes, gradients, hooks and the global random state are left as they were.
        batches: re-iterable, of any type the adapter understands; a list stands for parts that are passed on their own
            (a list of tensors is one batch). None: only data-free pruners will do.
        adapter: the six answers; None: the model's own, or `PlainAdapter`.
        seed: owner of the random draws of data loading and losses. Every pass starts from it.
        num_batches: how many batches to use; None: all.
        first_batch: how many to leave out at the beginning.
        shared: the processes of this run ask the same at the same time: each computes some of the batches.
        archive: where norms and gradients are kept between programs.

    Raises:
        ValueError: no prunable layers, weights that aren't finite, batches that can be read only once.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Any] | None = None,
        adapter: Adapter | None = None,
        *,
        seed: int = 0,
        num_batches: int | None = None,
        first_batch: int = 0,
        shared: bool = False,
        archive: Archive | None = None,
    ) -> None:
        if num_batches is not None and num_batches < 1:
            raise ValueError(f"num_batches must be at least 1, got {num_batches}")
        if batches is not None and iter(batches) is batches:
            raise ValueError("calibration batches can be read only once: pass a list or a DataLoader, not an iterator")
        self.model, self.batches, self.adapter = model, batches, adapter_for(model, adapter)
        self.seed, self.num_batches, self.first_batch = seed, num_batches, first_batch
        self.shared, self.archive = shared and processes.size() > 1, archive
        self.layers: dict[str, Layer] = find_layers(model, self.adapter)
        self.alive: dict[str, Tensor] = {}  # masks (d_out, d_in) of an earlier step; a layer without one is dense
        self.losses: list[float] = []  # of the last gradient pass, one per part, in order
        self.data_hash: str | None = None  # of the batches that were seen
        self.memory: dict[Any, Any] = {}  # what others found out at great cost, by what they asked
        self._norms: dict[Compat, dict[str, Tensor]] = {}
        self._products: dict[Compat, dict[str, Tensor]] = {}
        self._gradients: dict[str, Tensor] | None = None
        self._sizes: Sizes | None = None

    def stage(self, step: int, batches: int | None = None) -> Calibration:
        """The same questions at the weights as they are now, without memory.

        With `batches` step t sees batches t·`batches` to (t + 1)·`batches` only, else the same as this one.
        """
        first, count = self.first_batch, self.num_batches
        if batches is not None:
            first, count = first + step * batches, batches
        return Calibration(
            self.model,
            self.batches,
            self.adapter,
            seed=self.seed + step,
            num_batches=count,
            first_batch=first,
            shared=self.shared,
        )

    def about(self, names: Iterable[str]) -> Calibration:
        """The same questions about some of the layers, at the weights as they are now, without memory."""
        part = self.stage(0)
        part.layers = {name: part.layers[name] for name in names}
        part.alive = {name: mask for name, mask in self.alive.items() if name in part.layers}
        return part

    def known(self) -> dict[str, dict[str, Tensor]]:
        """What scores are made of, as far as it has been asked for: by statistic, by layer."""
        found = {f"norms:{compat}": norms for compat, norms in self._norms.items()}
        if self._gradients is not None:
            found["gradients"] = self._gradients
        if "gradient_magnitudes" in self.memory:
            found["gradient_magnitudes"] = self.memory["gradient_magnitudes"]
        return found

    def know(self, found: Mapping[str, dict[str, Tensor]], data_hash: str | None) -> None:
        """Takes over what another calibration of the same weights has known, and the hash of the data it saw."""
        self._norms |= {key.partition(":")[2]: own for key, own in found.items() if key.startswith("norms:")}  # pyright: ignore[reportAttributeAccessIssue]
        self._gradients = found.get("gradients", self._gradients)
        if "gradient_magnitudes" in found:
            self.memory["gradient_magnitudes"] = found["gradient_magnitudes"]
        self.data_hash = data_hash

    @property
    def total(self) -> int:
        """Number of prunable weights."""
        return sum(layer.size for layer in self.layers.values())

    def norms(self, *, compat: Compat = "corrected") -> dict[str, Tensor]:
        """Per layer (d_in,) float64: the sum of squared inputs over all tokens that count, divided by the rows seen.

        `compat="official"` repeats the released MULTIFLOW, which takes X-VLM's region captions for their own padding
        mask and so counts only tokens whose id is 1.

        Raises:
            ValueError: no batches, a value that isn't finite, or a layer that no batch reaches.
        """
        check_compat(compat)
        if compat not in self._norms:
            shapes = {name: layer.matrix.shape[1:] for name, layer in self.layers.items()}
            found = InputNorms(self.layers.values())
            self._norms[compat] = self._kept(f"norms-{compat}", shapes, lambda: self._collect(found, compat))
        return self._norms[compat]

    def products(self, *, compat: Compat = "corrected") -> dict[str, Tensor]:
        """Per layer (d_in, d_in) float64: the sum of x xᵀ over the tokens that count, divided by the rows seen.

        As `norms`, which is its diagonal. 8·d_in² bytes a layer: ask about some layers at a time (`about`).
        """
        check_compat(compat)
        if compat not in self._products:
            self._products[compat] = self._collect(InputProducts(self.layers.values()), compat)
        return self._products[compat]

    def order(self) -> list[str]:
        """The layers in the order in which the first batch reaches them; those it doesn't reach come last."""
        found = InputOrder(self.layers.values())
        with found.watching(), self._undisturbed(), torch.no_grad():
            _, parts = next(self._parts())
            for part in parts:
                self.adapter.encode(self.model, part)
        return [*found.sums, *(name for name in self.layers if name not in found.sums)]

    def gradients(self) -> dict[str, Tensor]:
        """Per layer (d_out, d_in) float32: the gradient of the loss, averaged over parts and batches.

        Raises:
            ValueError: no batches, a loss or gradient that isn't finite.
        """
        if self._gradients is None:
            shapes = {name: layer.matrix.shape for name, layer in self.layers.items()}
            self._gradients = self._kept("gradients", shapes, self._collect_gradients)
        return self._gradients

    def gradient_sizes(self) -> Sizes:
        """Per layer the sums of |g|, |w·g| and (w·g)² over its weights, each the mean over the batches' gradients g.

        From the pass that gives `gradients()`, if this is asked first.
        """
        if self._sizes is None:
            self._sizes = {name: dict.fromkeys(("gradient", "magnitude", "squared"), 0.0) for name in self.layers}
            self._gradients = self._collect_gradients(self._sizes)
        return self._sizes

    def gradient_magnitudes(self) -> dict[str, Tensor]:
        """Per layer (d_out, d_in) float32: |g|, the mean over the batches' gradients g."""
        if "gradient_magnitudes" not in self.memory:
            shapes = {name: layer.matrix.shape for name, layer in self.layers.items()}
            self.memory["gradient_magnitudes"] = self._kept("magnitudes", shapes, self._collect_magnitudes)
        return self.memory["gradient_magnitudes"]

    def _collect_magnitudes(self) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = {}
        batches = 0
        for own in self._gradients_in_order():
            move({name: gradient.abs_() for name, gradient in own.items()}, sums)
            batches += 1
        return {name: self._mean_gradient(layer, sums, batches) for name, layer in self.layers.items()}

    def _kept(
        self, name: str, shapes: dict[str, torch.Size], compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """A statistic from the archive, or computed and put there."""
        if self.archive is None or self.batches is None:
            return compute()
        if (found := self.archive.load(name, shapes, self._device)) is None:
            found = Statistic(compute(), self.data_hash, self.losses)
            self.archive.save(name, found)
        self.data_hash, self.losses = found.data_hash, found.losses
        return found.tensors

    def gradients_of_batches(self, *, training: bool = False) -> Iterator[dict[str, Tensor]]:
        """For every batch the gradients of its loss (the mean over its parts), by layer, in the parameters' shapes.

        A layer the loss doesn't reach is missing. The dictionary is emptied before the next batch. The weights may be
        changed in between; `training` asks in training mode (dropout).
        """
        own: dict[str, Tensor] = {}
        self.losses = []
        with self._undisturbed(training=training), differentiating(self.model, self.layers, own), torch.enable_grad():
            for number, parts in self._parts():
                own.clear()
                for part in parts:
                    self._backward(part, len(parts), number)
                _refuse_infinite(own, f"the gradients of {{}} in calibration batch {number}")
                yield own

    def count(self) -> tuple[int, int]:
        """The number of batches, and the rows of the first: images, over all its parts."""
        rows, batches = 0, 0
        with self._undisturbed():
            for _, parts in self._parts():
                rows = rows or sum(self.adapter.rows(part) for part in parts)
                batches += 1
        return batches, rows

    def losses_of_batches(self, batches: int) -> Iterator[Callable[[], float]]:
        """For each of the first `batches` batches a function that computes its loss at the weights as they are.

        Every call starts from the same random state, and leaves buffers and what is frozen beside trained parameters
        as they were (queues, momentum copies; a copy of them is kept meanwhile).

        Raises:
            ValueError: a loss that isn't finite.
        """
        limit = batches if self.num_batches is None else min(batches, self.num_batches)
        asked = self.stage(0, limit)
        with self._undisturbed(), torch.no_grad():
            kept = Snapshot(self.side_states())
            for number, parts in asked._parts(quiet=True):
                state = RandomState(next(iter(self.layers.values())).weight.device)
                yield lambda number=number, parts=parts, state=state: self._loss(parts, number, state, kept)
                state.restore()
        self.data_hash = asked.data_hash

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

    def _collect(self, found: InputNorms, compat: Compat) -> dict[str, Tensor]:
        with found.watching(), self._undisturbed(), torch.no_grad():
            for number in self._watched(found, compat):
                _refuse_infinite(found.sums, f"the inputs of {{}} in calibration batch {number}")
        return {layer.name: self._mean_norm(layer, found) for layer in found.layers}

    def _watched(self, found: InputNorms, compat: Compat) -> Iterator[int]:
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

        for number, (heads, *totals) in dealt(self._parts(), compute, self._device):
            for (index, rows), total in zip(heads.tolist(), totals, strict=True):
                found.take(names[index], rows, total)
            yield number

    def _encode(self, found: InputNorms, parts: list[Any], compat: Compat) -> None:
        for part in parts:
            shown = _as_released(part) if compat == "official" else part
            found.new_part(lambda name, tokens, shown=shown: self.adapter.token_mask(shown, name, tokens))
            self.adapter.encode(self.model, part)

    @staticmethod
    def _mean_norm(layer: Layer, found: InputNorms) -> Tensor:
        if layer.name not in found.sums:
            raise ValueError(
                f"no calibration batch reaches {layer.name!r}: its adapter's encode() doesn't use it; "
                "leave it out in prunable(), or use a pruner without activations"
            )
        return found.sums[layer.name] / found.rows[layer.name]

    def _collect_gradients(self, sizes: Sizes | None = None) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = {}
        batches = 0
        if sizes is not None:
            for own in self._gradients_in_order():
                add_sizes(self.layers, own, sizes)
                move(own, sums)
                batches += 1
            for name, totals in sizes.items():
                sizes[name] = {what: total / batches for what, total in totals.items()}
            return {name: self._mean_gradient(layer, sums, batches) for name, layer in self.layers.items()}
        if self._shares_gradients:
            for number, parts in self._dealt_gradients():
                for own in parts:
                    move(own, sums)
                _refuse_infinite(sums, f"the gradients of {{}} in calibration batch {number}")
                batches += 1
            return {name: self._mean_gradient(layer, sums, batches) for name, layer in self.layers.items()}
        self.losses = []
        with self._undisturbed(), differentiating(self.model, self.layers, sums), torch.enable_grad():
            for number, parts in self._parts():
                for part in parts:
                    self._backward(part, len(parts), number)
                _refuse_infinite(sums, f"the gradients of {{}} in calibration batch {number}")
                batches += 1
        return {name: self._mean_gradient(layer, sums, batches) for name, layer in self.layers.items()}

    def _gradients_in_order(self) -> Iterator[dict[str, Tensor]]:
        """As `gradients_of_batches`, for weights that stay as they are meanwhile: processes share the batches."""
        if not self._shares_gradients:
            yield from self.gradients_of_batches()
            return
        for number, parts in self._dealt_gradients():
            own: dict[str, Tensor] = {}
            for part in parts:
                move(part, own)
            _refuse_infinite(own, f"the gradients of {{}} in calibration batch {number}")
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

        with self._undisturbed(), differentiating(self.model, self.layers, own), torch.enable_grad():
            for number, (heads, *tensors) in dealt(self._parts(), compute, self._device):
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

    @staticmethod
    def _mean_gradient(layer: Layer, sums: Mapping[str, Tensor], batches: int) -> Tensor:
        if layer.name not in sums:
            return torch.zeros_like(layer.matrix)
        return layer.from_stored(sums[layer.name].div_(batches))

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

    def _parts(self, *, quiet: bool = False) -> Iterator[tuple[int, list[Any]]]:
        """The number and the parts of every batch, on the model's device."""
        if self.batches is None:
            raise ValueError("this pruner asks the data: pass calibration=batches")
        device = self._device
        last = None if self.num_batches is None else self.first_batch + self.num_batches
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
        if not quiet and self.num_batches is not None and seen < self.num_batches:
            log.warning("%d calibration batches were asked for, the set has only %d", self.num_batches, seen)
        self.data_hash = digest.hexdigest()


def _refuse_infinite(tensors: Mapping[str, Tensor], what: str) -> None:
    """Raises ValueError with the first name in place of `{}` if a tensor isn't finite; one look at the device."""
    if tensors and not torch.isfinite(torch.stack([tensor.sum().float() for tensor in tensors.values()])).all():
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise ValueError(what.format(repr(name)) + " hold NaN or infinity")


def _as_released(part: Any) -> Any:
    """A region batch as the released MULTIFLOW reads it: its text ids where its padding mask should be."""
    if isinstance(part, Batch) and part.is_region and part.text_ids is not None:
        return dataclasses.replace(part, text_atts=(part.text_ids == 1).long())
    return part
