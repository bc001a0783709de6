"""Commands whose whole command line is key=value, from the fields of a dataclass."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from vlp_bench.runs.terminal.conf import closest
from vlp_bench.runs.terminal.console import print_help
from vlp_bench.runs.terminal.errors import GOES_ON, UserError, one_line, wants_traceback

T = TypeVar("T")


def perform(cls: type[T], act: Callable[[T], object], about: str | None) -> None:
    """Do what this process's command line asks: `act` on its request, or print `about` for --help."""
    with_words(lambda words: act(parse(cls, words)), about)


def with_words(act: Callable[[list[str]], object], about: str | None, *, stopped: str = GOES_ON) -> None:
    """`act` on this process's words, or print `about` for --help; errors are one line.

    `stopped` is said of an interrupted command.
    """
    words = [word for word in sys.argv[1:] if not word.startswith("debug=")]
    if {"-h", "--help"} & set(words):
        print_help(about)
        return
    with one_line(words, traceback=wants_traceback(sys.argv[1:]), stopped=stopped):
        act(words)


def parse(cls: type[T], words: Sequence[str]) -> T:
    """The dataclass `cls` from words `field=value`; its defaults, all of type str, int or bool, say the types.

    Raises:
        UserError: a word that is not key=value, has no such key, or a value of another type.
    """
    given: dict[str, Any] = {}
    kinds = {field.name: type(field.default) for field in fields(cls)}  # pyright: ignore[reportArgumentType]
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in kinds:
            near = closest(key, list(kinds))
            raise UserError(f"{word}: expected key=value with a key of {', '.join(kinds)}{near}")
        given[key] = _typed(word, value, kinds[key])
    return cls(**given)


def _typed(word: str, value: str, kind: type) -> Any:
    if kind is bool and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if kind is int and value.isdecimal() and value.isascii():
        return int(value)
    if kind is str:
        return value
    raise UserError(f"{word}: expected {'true or false' if kind is bool else 'a whole number'}")
