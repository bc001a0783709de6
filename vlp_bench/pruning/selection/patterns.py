"""N:M patterns: n of every m consecutive inputs of every output survive."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from torch import Tensor

from vlp_bench.pruning.checks import check_choice, check_counts
from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.selection.thresholds import keep_largest, keep_largest_per_group

Pattern = tuple[int, int]  # kept, of how many
NAMED = "n:m (as 2:4)"
NEAR = 1e-3  # a sparsity that is the pattern's, but for its last digits


def check_within(within: str, others: Collection[str] = ("layer",)) -> None:
    """Raises ValueError unless it is one of `others` or n:m with 1 <= n <= m."""
    found = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", within)
    if found is None or int(found[1]) > int(found[2]):
        check_choice("within", within, (*others, NAMED))


def check_share(within: str, sparsity: float) -> None:
    """Raises ValueError unless n:m removes about this share of the weights; what removes nothing has no pattern."""
    if not _has_share(within, sparsity):
        n, m = map(int, within.split(":"))
        raise ValueError(
            f"sparsity={sparsity:g}: {within} keeps {n} of every {m} weights, which is sparsity {1 - n / m:g}: ask for "
            f"that, or for another pattern than within={within}"
        )


def check_steps(within: str, path: Sequence[float]) -> None:
    """Raises ValueError for a step on the way to n:m that removes another share of the weights."""
    for step, sparsity in enumerate(path, 1):
        if not _has_share(within, sparsity):
            raise ValueError(
                f"step {step} of {len(path)} has sparsity {sparsity:.4g}, which {within} can't have: use "
                "pruner/schedule=constant, whose steps have the last one's, or no n:m pattern"
            )


def _has_share(within: str, sparsity: float) -> bool:
    n, _, m = within.partition(":")
    return not m or sparsity == 0 or abs(sparsity - (1 - int(n) / int(m))) <= NEAR


def pattern_of(within: str, layer: Layer, kept: int) -> Pattern | None:
    """n and m; None where there is no pattern, or nothing is removed.

    Raises:
        ValueError: the layer's inputs or its budget don't allow them.
    """
    if ":" not in within:
        return None
    n, m = map(int, within.split(":"))
    if n < m and kept == layer.size:
        return None
    d_in = layer.matrix.shape[1]
    if d_in % m:
        raise ValueError(f"{layer.name!r} has {d_in} inputs, which {within} can't group by {m}: leave it out")
    if kept * m != layer.size * n:
        raise ValueError(
            f"{within} keeps {n} of every {m} weights and {layer.name!r} should keep {kept} of {layer.size}: "
            f"ask for sparsity {1 - n / m:g} with uniform budgets (pruner/allocate=uniform)"
        )
    return n, m


def keep_best(scores: Tensor, kept: int, pattern: Pattern | None, name: str = "scores") -> Tensor:
    """Mask (d_out, d_in) of the `kept` largest, or of the n largest of every m; among equals the lower index wins."""
    return keep_largest(scores, kept, name=name) if pattern is None else keep_largest_per_group(scores, *pattern)


def check_block(within: str, block_size: int) -> None:
    """Raises ValueError unless blocks of so many columns hold whole groups."""
    check_counts(block_size=block_size)
    if ":" in within and block_size % int(within.split(":")[1]):
        raise ValueError(f"block_size must hold whole groups of {within}, got {block_size}")
