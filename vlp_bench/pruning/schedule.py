"""Schedules: the sparsities that are passed through on the way to the target; the last is always the target itself.

A schedule is a function `sparsity -> [sparsity of step 1, ..., sparsity]`; bind `steps` with `functools.partial`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vlp_bench.pruning.checks import Compat, Count, check_compat, check_counts

Schedule = Callable[[float], list[float]]


def one_shot(sparsity: float) -> list[float]:
    """Dense at once."""
    return [sparsity]


def linear(sparsity: float, *, steps: Count, compat: Compat = "corrected") -> list[float]:
    """s_t = s (t + 1) / T, t = 0..T-1: the same number of weights goes in every step.

    `compat="official"` is the released code's s + (1 - s)(t + 1) / T, which ends at 100 %.
    """
    check_counts(steps=steps)
    check_compat(compat)
    if compat == "official":
        return [sparsity + (1 - sparsity) * (t + 1) / steps for t in range(steps)]
    return [sparsity * (t + 1) / steps for t in range(steps - 1)] + [sparsity]


def exponential(sparsity: float, *, steps: Count, compat: Compat = "corrected") -> list[float]:
    """s_t = 1 - (1 - s)^((t + 1) / T), t = 0..T-1: the same share of what is left goes in every step (FORCE, IterSNIP).

    `compat="official"` leaves the rounding error in the last step.
    """
    check_counts(steps=steps)
    check_compat(compat)
    path = [1 - (1 - sparsity) ** ((t + 1) / steps) for t in range(steps)]
    return path if compat == "official" else [*path[:-1], sparsity]


def power(sparsity: float, *, steps: Count) -> list[float]:
    """s_t = s^(T / (t + 1)), t = 0..T-1 (ECoFLaP's iterative OBD)."""
    check_counts(steps=steps)
    return [*(sparsity ** (steps / (t + 1)) for t in range(steps - 1)), sparsity]


def constant(sparsity: float, *, steps: Count) -> list[float]:
    """The target in every step."""
    check_counts(steps=steps)
    return [sparsity] * steps


@dataclass(frozen=True, kw_only=True)
class Reviving:
    """The sparsities of another schedule, where each step chooses among all weights: removed ones may return.

    A score sees the model as the step before left it, and what its weights were at first (`Calibration.original`).
    """

    path: Schedule

    def __call__(self, sparsity: float) -> list[float]:
        """The path."""
        return self.path(sparsity)
