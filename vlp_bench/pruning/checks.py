"""What users may ask for: each check says what was given and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import partial
from typing import Literal

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
    """Raises ValueError for a number, by its name, that isn't above zero; NaN isn't."""
    for name, number in numbers.items():
        if not number > 0:
            raise ValueError(f"{name} must be positive, got {number}")


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
