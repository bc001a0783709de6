"""What a misspelt name may have meant, and one of a thing or several."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


def did_you_mean(given: object, allowed: Iterable[object]) -> str:
    """'; did you mean a or b?', else '', see `near`."""
    meant = near(given, allowed)
    return f"; did you mean {' or '.join(meant)}?" if meant else ""


def near(given: object, allowed: Iterable[object]) -> list[str]:
    """What a name may have meant, the nearest first.

    A name that differs in case and punctuation alone is the one ("Sparse-GPT" for "sparsegpt"), else at most three near
    ones are.
    """
    by_letters: dict[str, list[str]] = {}
    for name in map(str, allowed):
        by_letters.setdefault(_letters(name), []).append(name)
    letters = _letters(str(given))
    same = by_letters.get(letters) if letters else None
    like = difflib.get_close_matches(letters, by_letters, n=3, cutoff=0.6)
    return (same or [name for word in like for name in by_letters[word]])[:3]


def count_of(number: int, what: str, several: str = "") -> str:
    """'1 run', '3,000 runs'; `several`: the plural, where it takes more than an s."""
    return f"{number:,} {what if number == 1 else several or f'{what}s'}"


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower()
