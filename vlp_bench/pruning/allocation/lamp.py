"""LAMP's budgets: one threshold on w_u² / Σ_{v ≥ u} w_v² (Lee et al., ICLR 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor

from vlp_bench.pruning.allocation.global_threshold import GlobalThreshold
from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.scores import Score, ascending_shares_of_rest, lamp, magnitude
from vlp_bench.pruning.scoring.cache import hints_of
from vlp_bench.pruning.scoring.pieces import pieces
from vlp_bench.pruning.selection.across_layers import Counted, Limits, Sample, in_ascending_order, pick
from vlp_bench.pruning.statistics.calibration import Calibration

DEVIATIONS = 24.0  # the sample's sums of squares are estimates too
MARGIN = 8.0  # deviations of a place in one layer's sample
STEP = 1 << 15  # sizes whose sum of squares is one number
TINY = torch.finfo(torch.double).tiny
LARGE = 1 << 17  # weights of a layer that isn't sorted as a whole


@dataclass(frozen=True)
class Lamp(GlobalThreshold):
    """The budgets of `GlobalThreshold(lamp)`, in a fraction of its time.

    Within a layer the score grows with |w|, and of equal weights the later has the larger one. So budgets need a
    layer's scores in ascending order only, never at their places, and `KeepTop(magnitude, ties="last")` gives the mask.
    """

    score: Score = lamp

    def _compete(
        self, group: list[Layer], calibration: Calibration, sparsities: Sequence[float]
    ) -> list[dict[str, int]]:
        """As all do; the size from which on a layer keeps its weights is left for whoever makes the masks."""
        looked = {layer.name: _Sizes(layer, calibration) for layer in group if _is_sampled(layer, calibration)}
        scores = {
            layer.name: partial(looked.__getitem__, layer.name)
            if layer.name in looked
            else partial(self._ascending, layer, calibration)
            for layer in group
        }
        budgets = self._kept(group, calibration, sparsities, scores)
        thresholds = hints_of(magnitude, calibration).thresholds
        for kept in budgets:
            for name, sizes in looked.items():
                if (least := sizes.least_of(kept[name])) is not None:
                    thresholds[name, kept[name]] = least
        return budgets

    def _ascending(self, layer: Layer, calibration: Calibration) -> Tensor:
        scores = ascending_shares_of_rest(_ascending_sizes(layer.matrix))
        alive = None if self.compat == "official" else calibration.alive.get(layer.name)
        if alive is not None:  # what an earlier step removed is zero, and comes last
            scores[: alive.numel() - int(torch.count_nonzero(alive))] = -torch.inf
        return scores

    def _sample(self, group: list[Layer], calibration: Calibration) -> Sample | None:
        """Of each layer some weights, with the scores they would have if the rest were like them."""
        picked = [_few(layer)[1] for layer in group]
        return Sample.of(picked, [layer.size for layer in group], DEVIATIONS)


def _ascending_sizes(w: Tensor) -> Tensor:
    """(n,) |w| of a layer or of some of its weights."""
    return in_ascending_order(w.abs().reshape(-1))


def _few(layer: Layer) -> tuple[Tensor, Tensor]:
    """Some of a layer's |w| in ascending order, and the scores they would have if the rest were like them, float32."""
    sizes = _ascending_sizes(pick(layer.matrix))
    return sizes, ascending_shares_of_rest(sizes).float() * (len(sizes) / max(1, layer.size))


def _is_sampled(layer: Layer, calibration: Calibration) -> bool:
    plain = layer.size >= LARGE and layer.weight.dtype is torch.float32
    return plain and pieces(magnitude, layer, calibration) is not None


class _Sizes:
    """A layer's largest |w| in order, as many as limits ask for; sums of squares tell where the limits divide them.

    A sample tells how many these are. If it was misleading, the whole layer is put in order.
    """

    def __init__(self, layer: Layer, calibration: Calibration) -> None:
        self.layer, self.calibration = layer, calibration
        self._divided: list[tuple[int, Tensor]] = []  # how many are larger, and |w| between two limits, ascending

    def counted(self, limits: Sequence[Limits]) -> list[Counted]:
        """What lies above and between each pair of limits."""
        lowest = min(low for low, _ in limits)
        ranked = _Ranked(self._large(lowest))
        if len(ranked.sizes) < self.layer.size and not ranked.begins_below(lowest):
            ranked = _Ranked(_ascending_sizes(self.layer.matrix))
        counted = [ranked.counted(pair) for pair in limits]
        self._divided += [(above, sizes.clone()) for above, sizes, _ in counted]
        return [Counted(pair, above, (0, 0), keys) for pair, (above, _, keys) in zip(limits, counted, strict=True)]

    def least_of(self, kept: int) -> float | None:
        """The smallest |w| of so many, if it is known."""
        for above, sizes in self._divided:
            if 0 < kept - above <= len(sizes):
                return float(sizes[above - kept])
        return None

    def _large(self, lowest: int) -> Tensor:
        """|w| in ascending order; smaller ones than these have lower scores, most likely."""
        sizes, scores = _few(self.layer)
        first, total = int(np.searchsorted(scores.view(torch.int32).numpy(), np.int32(lowest))), len(sizes)
        first -= int(MARGIN * (first * (total - first) / total) ** 0.5 + 2 * MARGIN)
        bound = float(sizes[min(first, total - 1)]) if first >= 0 else 0.0
        parts = pieces(magnitude, self.layer, self.calibration) or ()
        found = [part.take(np.flatnonzero(part >= bound)) for part in (piece.numpy() for piece in parts)]
        return in_ascending_order(torch.from_numpy(np.concatenate(found)))


class _Ranked:
    """LAMP's scores of the largest |w| of a layer, (n,) in ascending order, computed where they are asked for."""

    def __init__(self, sizes: Tensor) -> None:
        self.sizes = sizes
        self._starts = [*range(0, len(sizes), STEP), len(sizes)]
        squares = [_square(sizes[start:stop]) for start, stop in pairwise(self._starts)]
        self._rest = [*accumulate(reversed(squares))][::-1]  # of all from each start on
        rest = torch.tensor(self._rest, dtype=torch.double).clamp_min(TINY)
        firsts = sizes[self._starts[:-1]].double().square_() / rest
        self._keys = firsts.float().view(torch.int32).numpy()

    def begins_below(self, key: int) -> bool:
        """Whether the smallest has a lower score."""
        return len(self._keys) > 0 and int(self._keys[0]) < key

    def counted(self, limits: Limits) -> tuple[int, Tensor, np.ndarray]:
        """How many lie above two limits; those between, and their keys."""
        first = max(0, int(np.searchsorted(self._keys, np.int32(limits[0]))) - 2)
        last = min(len(self._keys), int(np.searchsorted(self._keys, np.int32(limits[1]), side="right")) + 1)
        near = self.sizes[self._starts[first] : self._starts[last]]
        scores = ascending_shares_of_rest(near, self._rest[last] if last < len(self._rest) else 0.0)
        keys = scores.view(torch.int32).numpy()
        low, high = np.searchsorted(keys, np.int32(limits[0])), np.searchsorted(keys, np.int32(limits[1]), side="right")
        return len(self.sizes) - self._starts[first] - int(high), near[low:high], keys[low:high].copy()


def _square(sizes: Tensor) -> float:
    """The sum of squares, in float64."""
    exact = sizes.numpy().astype(np.float64)
    return float(exact @ exact)
