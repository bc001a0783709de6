"""What the parts of a pruner are called with: held against their signatures before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import partial
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints

from vlp_bench.pruning.checks import name_of
from vlp_bench.pruning.choices import FIRST
from vlp_bench.pruning.foreign_parts import OURS

CALLED_WITH = {
    "Allocate": ("calibration", "sparsity"),
    "Solve": ("calibration", "budgets"),
    "Schedule": FIRST["schedule"],
    "Sweep": FIRST["sweep"],
    "Select": FIRST["tokens"],
    "Fit": FIRST["values"],
    "Score": FIRST["scores"],
    "UnitScore": ("group", "calibration"),
}
"""By the type of a part, as dataclasses and functions annotate it."""


def check_calls(part: Any, where: str = "") -> None:
    """Raises ValueError, by its key, for the first part in a pruner that doesn't take what it is called with.

    So for the first number bound to a function of ours that its annotation doesn't allow.
    """
    for name, kind, value in _inside(part):
        key = f"{where}.{name}".lstrip(".")
        if callable(value) and (arguments := CALLED_WITH.get(kind.removesuffix(" | None"))):
            _check_call(value, arguments, key)
        for check in _bounds(part).get(name, ()):
            check(**{key: value})
        check_calls(value, key)


def _bounds(part: Any) -> dict[str, tuple[Callable[..., None], ...]]:
    """By argument of a function that some are bound of, the checks it is annotated with (`checks.Positive`)."""
    ours = isinstance(part, partial) and str(getattr(part.func, "__module__", "")).startswith(OURS)
    hints = get_type_hints(part.func, include_extras=True) if ours else {}
    return {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}


def _inside(part: Any) -> Iterator[tuple[str, str, Any]]:
    """Name, annotation and value of what a part was made with."""
    if isinstance(part, partial):
        own = _signature(part.func)
        for name, value in part.keywords.items():
            yield name, str(own.parameters[name].annotation) if own and name in own.parameters else "", value
    elif is_dataclass(part) and not isinstance(part, type):
        for field in fields(part):
            yield field.name, str(field.type), getattr(part, field.name)


def _check_call(part: Any, arguments: tuple[str, ...], key: str) -> None:
    own = _signature(part)
    if own is None:
        return
    try:
        own.bind(*arguments)
    except TypeError as reason:
        name = name_of(part)
        bare = [parameter.replace(annotation=Parameter.empty) for parameter in own.parameters.values()]
        takes = own.replace(parameters=bare, return_annotation=Signature.empty)
        raise ValueError(
            f"{key}: {name}{takes} is called as {name}({', '.join(arguments)}): {reason}; what else it takes needs a "
            "default, or functools.partial"
        ) from None


def _signature(part: Any) -> Signature | None:
    """Of what can be called; None if it doesn't tell."""
    try:
        return signature(part, follow_wrapped=False)
    except (TypeError, ValueError):
        return None
