"""Budgets: kept weights per layer as integers; a sparsity is a float only at the edge."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral

from vlp_bench.pruning.checks import Compat, name_of
from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.statistics.calibration import Calibration

Allocate = Callable[[Calibration, float], dict[str, int]]  # (calibration, sparsity) -> kept weights per layer
Densities = Callable[[float], Sequence[float]]  # a number -> the density of each group


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


def may_differ(allocate: Allocate, calibration: Calibration, sparsity: float) -> bool:
    """Whether layers will keep different shares, but for chance, as far as is known before anything is measured.

    An allocator whose shares follow from data says so: `may_differ(calibration, sparsity)`.
    """
    said = getattr(allocate, "may_differ", None)
    return said is not None and sparsity > 0 and said(calibration, sparsity)


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


def pinned(density: Densities, least: float, most: float, sizes: Sequence[int], kept: int) -> list[int]:
    """Budgets of groups whose densities all grow with one number, which is chosen so that they add up to `kept`.

    Densities below 0 and above 1 are cut, and the others make up for it together. No group's size matters but as a
    weight: the mean density over weights is what is asked for, exactly.

    Args:
        density: one for each group at a number.
        least: where nothing stays.
        most: where all does.
        sizes: weights in each group.
        kept: at most the sum of the sizes.
    """
    for _ in range(100):
        middle = (least + most) / 2
        enough = sum(_wanted(density, middle, sizes)) >= kept
        least, most = (least, middle) if enough else (middle, most)
    return _rounded(_wanted(density, most, sizes), sizes, kept)


def _wanted(density: Densities, number: float, sizes: Sequence[int]) -> list[float]:
    return [min(1.0, max(0.0, own)) * size for own, size in zip(density(number), sizes, strict=True)]


def spread(values: Sequence[float], sizes: Sequence[int], width: float, kept: int) -> list[int]:
    """Budgets of groups whose densities grow linearly with their values and add up to `kept`.

    The densities of the smallest and the largest value differ by `width`, before they are cut at 0 and 1. Equal values
    give equal densities.

    Args:
        values: one for each group, finite.
        sizes: weights in each group.
        width: at least 0.
        kept: at most the sum of the sizes.
    """
    above_least = [width * share for share in in_unit_interval(values)]
    return pinned(lambda shift: [own + shift for own in above_least], -width, 1.0, sizes, kept)


def in_unit_interval(values: Sequence[float]) -> list[float]:
    """(v - min) / (max - min); zeros where all are equal."""
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]


def _rounded(shares: Sequence[float], sizes: Sequence[int], kept: int) -> list[int]:
    """Whole numbers next to the shares that add up to `kept`: the largest remainders round up."""
    counts = [min(size, int(share)) for share, size in zip(shares, sizes, strict=True)]
    order = sorted(range(len(shares)), key=lambda i: counts[i] - shares[i])
    for i in order[: kept - sum(counts)]:
        counts[i] += 1
    return counts
