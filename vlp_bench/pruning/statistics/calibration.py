"""Asks the calibration data once and remembers the answers: what a model says about a set of batches."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar, cast

from torch import Tensor, nn

from vlp_bench.pruning.adapter import Adapter
from vlp_bench.pruning.checks import Compat
from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.precision import Precision
from vlp_bench.pruning.statistics.batch_loop import Passes, Seen
from vlp_bench.pruning.statistics.gradients import GradientStatistic, MeanGradient
from vlp_bench.pruning.statistics.inputs import InputNorms, InputStatistic
from vlp_bench.pruning.statistics.on_disk import Store, StoredStatistics
from vlp_bench.pruning.statistics.protocol import LayerStatistic, Statistic, Sums

T = TypeVar("T")


class Calibration(Passes):
    """What a model says about a set of batches: `calibration[statistic]` is computed when first asked for, and kept.

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
        stored: where statistics are looked for, and left for other programs; None: nowhere.
        alive: masks (d_out, d_in) of what earlier steps of a schedule have left; a layer without one is dense.
        is_step: this is for one step of a schedule.
        originals: weights (d_out, d_in) before the first step, where they may return; a layer without has its own.
        precision: of the model's passes: "fp32" (no TF32 anywhere), "tf32" (on GPUs from Ampere on), or "bf16" by
            autocast; sums are of float32 or float64 whatever it is.

    Raises:
        ValueError: no prunable layers, weights that aren't finite, batches that can be read only once, a precision that
            is unknown or that the model's device doesn't have.
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
        stored: Store | None = None,
        alive: Mapping[str, Tensor] | None = None,
        is_step: bool = False,
        originals: Mapping[str, Tensor] | None = None,
        precision: Precision = "fp32",
    ) -> None:
        super().__init__(model, batches, adapter, seed, num_batches, first_batch, shared, precision)
        self.alive: Mapping[str, Tensor] = MappingProxyType(dict(alive or {}))
        self.is_step = is_step
        self._originals = dict(originals or {})
        self._stored = stored
        self._before_sweep: Calibration | None = None
        self._known: dict[Hashable, Any] = {}
        self.borrowed = False
        """Whether something was taken from where statistics are stored, so that its seconds are not in a pruner's."""
        if isinstance(stored, StoredStatistics):
            self._seen.data_hash = stored.data_hash

    def __getitem__(self, statistic: Statistic[T]) -> T:
        """What the statistic is of this model and these batches.

        Raises:
            ValueError: no batches, values that aren't finite, or a layer that no batch reaches.
        """
        if statistic not in self._known:
            self._known[statistic] = statistic.of(self)
        return self._known[statistic]

    def collect(self, *statistics: LayerStatistic) -> list[Sums]:
        """Several at once: those that aren't known or stored share a pass where they look at the same."""
        loaded = {s: self._loaded(s) for s in statistics if s not in self._known}
        self._known |= {statistic: tensors for statistic, tensors in loaded.items() if tensors is not None}
        missing = [s for s in dict.fromkeys(statistics) if s not in self._known]
        wanted = list(dict.fromkeys([*missing, *(s for m in missing for s in m.along if s not in self._known)]))
        for group in _passes(wanted):
            computed = dict(zip(group, self._computed(group), strict=True))
            self._known |= computed
            for statistic in missing:
                if statistic in computed and statistic.on_disk and self._stored is not None:
                    self._stored.save(statistic.name, self._as_stored([statistic]))
        return [self._known[s] for s in statistics]

    def _computed(self, group: list[LayerStatistic]) -> list[Sums]:
        if isinstance(group[0], InputStatistic):
            return self.input_statistics(cast("list[InputStatistic]", group))
        return self.gradient_statistics(cast("list[GradientStatistic]", group))

    def _loaded(self, statistic: LayerStatistic) -> Sums | None:
        """From where statistics are stored, if it is there."""
        if self._stored is None or not statistic.on_disk:
            return None
        shapes = {n: statistic.shape(layer)[:: -1 if layer.transposed else 1] for n, layer in self.layers.items()}
        stored = self._stored.load(statistic.name, shapes, self._device)
        if stored is None:
            return None
        self.borrowed = True
        self._seen.data_hash, self.losses = stored.data_hash, stored.losses
        return {n: self.layers[n].from_stored(tensor) for n, tensor in stored.tensors[statistic.name].items()}

    def _as_stored(self, statistics: Iterable[LayerStatistic], weights: str | None = None) -> StoredStatistics:
        tensors = {
            statistic.name: {n: self.layers[n].as_stored(tensor) for n, tensor in self._known[statistic].items()}
            for statistic in statistics
        }
        transposed = [name for name, layer in self.layers.items() if layer.transposed]
        return StoredStatistics(tensors, self.data_hash, self.losses, transposed, weights)

    def known(self, weights: str | None = None) -> StoredStatistics:
        """All that has been asked for and can be stored; `weights` is the hash of the model's."""
        statistics = [s for s in self._known if isinstance(s, LayerStatistic) and s.on_disk]
        return self._as_stored(statistics, weights)

    def stage(
        self,
        step: int,
        batches: int | None = None,
        alive: Mapping[str, Tensor] | None = None,
        originals: Mapping[str, Tensor] | None = None,
    ) -> Calibration:
        """The same questions for step `step` of a schedule, at the weights as they are now; nothing is known yet.

        With `batches` step t sees batches t·`batches` to (t + 1)·`batches` only, else the same as this one.
        """
        first, count = self.first_batch, self.num_batches
        if batches is not None:
            first, count = first + step * batches, batches
        stage = Calibration(
            self.model,
            self.batches,
            self.adapter,
            seed=self.seed + step,
            num_batches=count,
            first_batch=first,
            shared=self.shared,
            alive=alive,
            is_step=True,
            originals=originals,
            precision=self.precision,
        )
        stage.layers, stage.is_pruned = {name: stage.layers[name] for name in self.layers}, step > 0
        return stage

    @property
    def revives(self) -> bool:
        """Whether this is for a step of a schedule whose removed weights may return."""
        return bool(self._originals)

    @property
    def before_sweep(self) -> Calibration:
        """What the model said before a sweep began to change it: of all layers, for what is asked once."""
        return self._before_sweep or self

    def subset(
        self,
        names: Iterable[str],
        *,
        adapter: Adapter | None = None,
        stored: Store | None = None,
        before_sweep: Calibration | None = None,
    ) -> Calibration:
        """The same questions about some of the layers, at the weights as they are now; nothing is known yet.

        What it learns about the batches (`data_hash`) is known here too. `adapter` answers in place of this one's.
        """
        part = copy.copy(self)
        part.adapter, part.losses = adapter or self.adapter, []
        part.layers = {name: self.layers[name] for name in names}
        part.alive = MappingProxyType({name: mask for name, mask in self.alive.items() if name in part.layers})
        part.is_step, part.borrowed = False, False
        part._stored, part._known = stored, {}
        part._before_sweep = before_sweep or self._before_sweep
        return part

    def in_every_process(self) -> Calibration:
        """The same questions to all batches, in every process: for what looks at more than one batch at a time."""
        if not self.shared:
            return self
        alone = self.subset(self.layers)
        alone.shared = False
        return alone

    def first(self, batches: int) -> Calibration:
        """The same questions to the first of its batches alone."""
        few = self.subset(self.layers)
        few.num_batches = batches if few.num_batches is None else min(batches, few.num_batches)
        few._seen = Seen()
        return few

    def original(self, layer: Layer) -> Tensor:
        """(d_out, d_in) its weight before the first step of a schedule whose removed weights may return."""
        return self._originals.get(layer.name, layer.matrix).to(layer.matrix.dtype)

    @property
    def total(self) -> int:
        """Number of prunable weights."""
        return sum(layer.size for layer in self.layers.values())

    def norms(self, *, compat: Compat = "corrected") -> dict[str, Tensor]:
        """Per layer (d_in,) float64: the length of each input feature (see `InputNorms`)."""
        return self[InputNorms(compat)]

    def gradients(self) -> dict[str, Tensor]:
        """Per layer (d_out, d_in) float32: the gradient of the loss, averaged over parts and batches."""
        return self[MeanGradient()]


def _passes(statistics: list[LayerStatistic]) -> list[list[LayerStatistic]]:
    """Those that can share a pass: all of gradients, and those of inputs that are shown the same."""
    groups: dict[Hashable, list[LayerStatistic]] = {}
    for statistic in statistics:
        key: Hashable = "gradients"
        if isinstance(statistic, InputStatistic):
            key = statistic.compat, statistic.one_reader and statistic.compat == "official"
        groups.setdefault(key, []).append(statistic)
    return list(groups.values())
