"""Asks the calibration data once and remembers the answers: squared input norms and gradients of the dense model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vlp_bench.pruning.adapter import Adapter
from vlp_bench.pruning.checks import Compat, check_compat
from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.statistics.batch_loop import Passes, refuse_infinite
from vlp_bench.pruning.statistics.gradients import Sizes, accumulate_gradients, add_sizes, move
from vlp_bench.pruning.statistics.input_norms import InputNorms, InputProducts, by_first_reader
from vlp_bench.pruning.statistics.on_disk import Statistic, StatisticsFolder


class Calibration(Passes):
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
        stored: where norms and gradients are kept between programs.

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
        stored: StatisticsFolder | None = None,
    ) -> None:
        super().__init__(model, batches, adapter, seed, num_batches, first_batch, shared)
        self.stored = stored  # None: nothing is kept
        self.alive: dict[str, Tensor] = {}  # masks (d_out, d_in) of an earlier step; a layer without one is dense
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

    def subset(self, names: Iterable[str]) -> Calibration:
        """The same questions about some of the layers, at the weights as they are now, without memory."""
        part = self.stage(0)
        part.layers = {name: part.layers[name] for name in names}
        part.alive = {name: mask for name, mask in self.alive.items() if name in part.layers}
        return part

    def state(self) -> dict[str, dict[str, Tensor]]:
        """What scores are made of, as far as it has been asked for: by statistic, by layer."""
        found = {f"norms:{compat}": norms for compat, norms in self._norms.items()}
        if self._gradients is not None:
            found["gradients"] = self._gradients
        if "gradient_magnitudes" in self.memory:
            found["gradient_magnitudes"] = self.memory["gradient_magnitudes"]
        return found

    def load_state(self, found: Mapping[str, dict[str, Tensor]], data_hash: str | None) -> None:
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
        mask and so counts only tokens whose id is 1, and which records a weight that several modules read in the first
        of them only (BLIP's encoder).

        Raises:
            ValueError: no batches, a value that isn't finite, or a layer that no batch reaches.
        """
        check_compat(compat)
        if compat not in self._norms:
            shapes = {name: layer.matrix.shape[1:] for name, layer in self.layers.items()}
            layers = self.layers.values()
            found = InputNorms(by_first_reader(layers) if compat == "official" else layers)
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
        if self.stored is None or self.batches is None:
            return compute()
        if (found := self.stored.load(name, shapes, self._device)) is None:
            found = Statistic(compute(), self.data_hash, self.losses)
            self.stored.save(name, found)
        self.data_hash, self.losses = found.data_hash, found.losses
        return found.tensors

    def _collect(self, found: InputNorms, compat: Compat) -> dict[str, Tensor]:
        with found.watching(), self._undisturbed(), torch.no_grad():
            for number in self._inputs(found, compat):
                refuse_infinite(found.sums, f"the inputs of {{}} in calibration batch {number}")
        return {layer.name: self._mean_norm(layer, found) for layer in found.layers}

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
                refuse_infinite(sums, f"the gradients of {{}} in calibration batch {number}")
                batches += 1
            return {name: self._mean_gradient(layer, sums, batches) for name, layer in self.layers.items()}
        self.losses = []
        with self._undisturbed(), accumulate_gradients(self.model, self.layers, sums), torch.enable_grad():
            for number, parts in self._parts():
                for part in parts:
                    self._backward(part, len(parts), number)
                refuse_infinite(sums, f"the gradients of {{}} in calibration batch {number}")
                batches += 1
        return {name: self._mean_gradient(layer, sums, batches) for name, layer in self.layers.items()}

    @staticmethod
    def _mean_gradient(layer: Layer, sums: Mapping[str, Tensor], batches: int) -> Tensor:
        if layer.name not in sums:
            return torch.zeros_like(layer.matrix)
        return layer.from_stored(sums[layer.name].div_(batches))
