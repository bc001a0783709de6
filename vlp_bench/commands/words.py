"""Commands whose whole command line is key=value, from the fields of a dataclass."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

from vlp_bench.commands.errors import UserError

T = TypeVar("T")


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
            raise UserError(f"{word}: expected key=value with a key of {', '.join(kinds)}")
        given[key] = _typed(word, value, kinds[key])
    return cls(**given)


def _typed(word: str, value: str, kind: type) -> Any:
    if kind is bool and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if kind is int and value.isdigit():
        return int(value)
    if kind is str:
        return value
    raise UserError(f"{word}: expected {'true or false' if kind is bool else 'a whole number'}")
