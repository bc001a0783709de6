"""What users may ask for: each check says what was given and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import partial
from typing import Annotated, Literal

from vlp_bench.spelling import did_you_mean

Compat = Literal["corrected", "official"]


def check_choice(what: str, given: str, allowed: Collection[str]) -> None:
    """Raises ValueError unless `given` is one of `allowed`."""
    if given not in allowed:
        raise ValueError(f"unknown {what} {given!r}: use one of {', '.join(allowed)}{did_you_mean(given, allowed)}")


def check_compat(compat: str) -> None:
    """`corrected` is the paper's definition, `official` the released code with its quirks."""
    check_choice("compat", compat, ("corrected", "official"))


def check_positive(**numbers: float) -> None:
    """Raises ValueError for a number, by its name, that isn't above zero; NaN and infinity aren't."""
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise ValueError(f"{name} must be positive, got {number}")


def check_not_negative(**numbers: float) -> None:
    """Raises ValueError for a number, by its name, that is below zero; NaN and infinity are refused too."""
    for name, number in numbers.items():
        if not 0 <= number < math.inf:
            raise ValueError(f"{name} must be at least 0, got {number}")


def check_counts(**numbers: int) -> None:
    """Raises ValueError for a number, by its name, below one."""
    for name, number in numbers.items():
        if not number >= 1:
            raise ValueError(f"{name} must be at least 1, got {number}")


Positive = Annotated[float, check_positive]
NotNegative = Annotated[float, check_not_negative]
Count = Annotated[int, check_counts]
"""What a function's arguments are annotated with; `calls.check_calls` holds bound ones to it."""


def check_sparsity(sparsity: float) -> float:
    """The sparsity as a float; raises ValueError outside [0, 1)."""
    try:
        number = math.nan if isinstance(sparsity, bool | str) else float(sparsity)
    except (TypeError, ValueError, RuntimeError):
        number = math.nan
    if not 0 <= number < 1:  # NaN fails the comparison too
        raise ValueError(f"sparsity is the share of weights removed, at least 0 and below 1; got {sparsity!r}")
    return number


def name_of(part: object) -> str:
    """What a function, a partial or an object is called in messages."""
    named = part.func if isinstance(part, partial) else part
    return getattr(named, "__name__", type(named).__name__)
