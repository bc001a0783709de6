"""Numbers on a command line of options (`argparse`): what each may be is said before anything heavy is imported."""

import argparse
import math
from collections.abc import Callable


def whole(least: int) -> Callable[[str], int]:
    """The `type` of an option that is a whole number of at least `least`, below 2**32."""

    def number(text: str) -> int:
        if not (text.isdecimal() and text.isascii() and least <= int(text[:11]) < 2**32):
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
        return int(text)

    return number


def positive(text: str) -> float:
    """The `type` of an option that is a number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number
