"""Budgets: kept weights per layer as integers; a sparsity is a float only at the edge."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral

from vlp_bench.pruning.checks import Compat, name_of
from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.statistics.calibration import Calibration

Allocate = Callable[[Calibration, float], dict[str, int]]  # (calibration, sparsity) -> kept weights per layer


def kept_of(total: int, sparsity: float, compat: Compat = "corrected") -> int:
    """The budget of `total` weights: (1 - s)·total, rounded; the released code removes int(s·total)."""
    return total - int(sparsity * total) if compat == "official" else round((1 - sparsity) * total)


def check_budgets(allocate: Allocate, budgets: Mapping[str, int], calibration: Calibration, sparsity: float) -> None:
    """Holds an allocator to the sparsity: its counts add up to `kept_of(total, sparsity)`.

    An allocator that shares out several budgets, one for each group of layers, or repeats a released rounding says so:
    `may_give(calibration, sparsity)` is the range of its sums.

    Raises:
        ValueError: names the allocator, with what was asked and given.
    """
    name, total = name_of(allocate), calibration.total
    if not isinstance(budgets, Mapping):
        raise ValueError(f"{name} gives {type(budgets).__name__}: kept weights by name of layer are needed")
    for layer in {**calibration.layers, **budgets}:
        size = calibration.layers[layer].size if layer in calibration.layers else 0
        kept = budgets.get(layer)
        if not isinstance(kept, Integral) or isinstance(kept, bool) or not 0 <= kept <= size:
            raise ValueError(f"{name} gives {layer!r} {kept!r} of its {size} weights: a whole number of them is needed")
    budget, given = kept_of(total, sparsity), sum(budgets.values())
    may_give = getattr(allocate, "may_give", None)
    if given not in (exactly(budget) if may_give is None else may_give(calibration, sparsity)):
        raise ValueError(
            f"{name} was asked for {budget} of {total} weights (sparsity {sparsity:g}) and gives {given} "
            f"(sparsity {1 - given / total:.4g}): its counts must add up to what is asked"
        )


def exactly(count: int) -> range:
    """The range of one number."""
    return range(count, count + 1)


def together(allocate: Allocate, sparsities: Sequence[float]) -> Allocate:
    """An allocator for these sparsities of one calibration, which are looked for together where that is quicker.

    An allocator whose search serves several sparsities has `for_all(calibration, sparsities)`: budgets for each.
    """
    for_all = getattr(allocate, "for_all", None)
    if for_all is None:
        return allocate
    budgets: dict[float, dict[str, int]] = {}

    def one_of_them(calibration: Calibration, sparsity: float) -> dict[str, int]:
        if not budgets:
            budgets.update(zip(sparsities, for_all(calibration, sparsities), strict=True))
        return budgets[sparsity] if sparsity in budgets else allocate(calibration, sparsity)

    return one_of_them


def by_ratio(kept: int, total: int) -> int:
    """A count after it was handed over as a float ratio and truncated: sometimes one more is kept."""
    return total - int((1 - kept / total) * total)


def apportion(kept: int, sizes: Sequence[int]) -> list[int]:
    """Shares of `kept` in proportion to the sizes: they add up to it, and none exceeds its size."""
    total, passed, given, shares = sum(sizes), 0, 0, []
    for size in sizes:
        passed += size
        upto = (2 * kept * passed + total) // (2 * total)
        shares.append(upto - given)
        given = upto
    return shares


def grouped(layers: Iterable[Layer], by: str) -> list[list[Layer]]:
    """The layers of each "modality", "block" or "layer", or all of them ("model"), in order of appearance."""
    groups: dict[str, list[Layer]] = {}
    for layer in layers:
        place = layer.place
        keys = {
            "modality": place.modality,
            "block": f"{place.modality}/{place.block}",
            "layer": layer.name,
            "model": "",
        }
        groups.setdefault(keys[by], []).append(layer)
    return list(groups.values())


def share_out(groups: Sequence[Sequence[Layer]], kept: Sequence[int]) -> dict[str, int]:
    """Kept weights per layer where each group's go to its layers in proportion to their sizes."""
    shares = [apportion(count, [layer.size for layer in group]) for group, count in zip(groups, kept, strict=True)]
    names = [layer.name for group in groups for layer in group]
    return dict(zip(names, (count for share in shares for count in share), strict=True))


def spread(values: Sequence[float], sizes: Sequence[int], width: float, kept: int) -> list[int]:
    """Budgets of groups whose densities grow linearly with their values and add up to `kept`.

    The densities of the smallest and the largest value differ by `width`; what would lie below 0 or above 1 is cut, and
    the others make up for it together. Equal values give equal densities.

    Args:
        values: one for each group, finite.
        sizes: weights in each group.
        width: at least 0.
        kept: at most the sum of the sizes.
    """
    low, high = min(values), max(values)
    wanted = [(value - low) / (high - low) * width if high > low else 0.0 for value in values]

    def densities(shift: float) -> list[float]:
        return [min(1.0, max(0.0, density + shift)) for density in wanted]

    below, above = -width, 1.0  # nothing stays, everything does
    for _ in range(100):
        middle = (below + above) / 2
        enough = sum(d * size for d, size in zip(densities(middle), sizes, strict=True)) >= kept
        below, above = (below, middle) if enough else (middle, above)
    return _rounded([d * size for d, size in zip(densities(above), sizes, strict=True)], sizes, kept)


def _rounded(shares: Sequence[float], sizes: Sequence[int], kept: int) -> list[int]:
    """Whole numbers next to the shares that add up to `kept`: the largest remainders round up."""
    counts = [min(size, int(share)) for share, size in zip(shares, sizes, strict=True)]
    order = sorted(range(len(shares)), key=lambda i: counts[i] - shares[i])
    for i in order[: kept - sum(counts)]:
        counts[i] += 1
    return counts
