"""Whether a value may be given for a parameter, read from the constructor's own annotations; and what may, in words.

Values are those of a configuration: null, true, numbers, text, lists, mappings, and descriptions of objects (mappings
with a `_target_`). There is no second list of types: whoever writes a constructor has written its schema.
"""

import inspect
import math
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

TARGET, PARTIAL = "_target_", "_partial_"
LARGEST = 2**63  # whole numbers from here on fit into no tensor
WORDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text", Path: "a path"}


@dataclass(frozen=True)
class Parameters:
    """What a callable takes by name. `open`: it takes other names as well, and checks them itself."""

    kinds: Mapping[str, Any]
    required: frozenset[str]
    open: bool = False


@cache
def parameters(target: Callable[..., Any]) -> Parameters:
    """The names, annotations and obligations of a constructor's or function's arguments.

    Those of a `**name: Unpack[TypedDict]` count one by one.
    """
    hints = _hints(target.__init__ if inspect.isclass(target) else target)
    kinds: dict[str, Any] = {}
    required: set[str] = set()
    any_other = False
    for name, parameter in _signature(target).parameters.items():
        kind = hints.get(name, Any)
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            unpacked = next(iter(get_args(kind)), None)
            any_other = not is_typeddict(unpacked)
            kinds |= get_type_hints(unpacked) if is_typeddict(unpacked) else {}
            required |= getattr(unpacked, "__required_keys__", frozenset())
        elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
            kinds[name] = kind
            if parameter.default is inspect.Parameter.empty:
                required.add(name)
    return Parameters(kinds, frozenset(required), any_other)


def _signature(target: Callable[..., Any]) -> inspect.Signature:
    """Of a dataclass that of its `__init__`: a `__new__` that words errors hides it."""
    if not (inspect.isclass(target) and is_dataclass(target)):
        return inspect.signature(target)
    _, *arguments = inspect.signature(target.__init__).parameters.values()
    return inspect.Signature(arguments)


def _hints(function: Any) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except NameError:  # a library's annotation that is only there for its type checker: the others count
        return {name: kind for name, kind in function.__annotations__.items() if not isinstance(kind, str)}


@cache
def columns(record: type) -> Parameters:
    """The same of a dataclass that describes a mapping."""
    hints = get_type_hints(record)
    needed = {f.name for f in fields(record) if f.default is MISSING and f.default_factory is MISSING}
    return Parameters({f.name: hints[f.name] for f in fields(record)}, frozenset(needed))


def fits(kind: Any, value: Any, made_by: Callable[[str], Any]) -> bool:
    """Whether a value may be given where `kind` is annotated.

    Args:
        made_by: the name of a `_target_` -> what it names.
    """
    origin, options = get_origin(kind), get_args(kind)
    if kind is Any or kind is object or isinstance(kind, TypeVar):
        return True
    if origin in (Union, types.UnionType):
        return any(fits(option, value, made_by) for option in options)
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in options)
    if isinstance(value, Mapping) and TARGET in value:
        return _object_fits(kind, origin, value, made_by)
    if kind in _SCALARS:
        return _SCALARS[kind](value)
    container = origin or kind
    if not inspect.isclass(container):
        return False
    if issubclass(container, Mapping) or is_typeddict(container):
        return isinstance(value, Mapping) and (len(options) < 2 or _all_fit(options[1], value.values(), made_by))
    if issubclass(container, tuple) and options and options[-1] is not ...:
        same = isinstance(value, list | tuple) and len(value) == len(options)
        return same and all(fits(o, v, made_by) for o, v in zip(options, value, strict=True))
    if issubclass(container, Collection) and container.__module__ in ("builtins", "collections.abc"):
        return isinstance(value, list | tuple) and (not options or _all_fit(options[0], value, made_by))
    return False


def _all_fit(kind: Any, values: Collection[Any], made_by: Callable[[str], Any]) -> bool:
    return all(fits(kind, value, made_by) for value in values)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and _finite(value)


def _finite(value: float) -> bool:
    return abs(value) < LARGEST if isinstance(value, int) else math.isfinite(value)


_SCALARS: dict[Any, Callable[[Any], bool]] = {
    types.NoneType: lambda value: value is None,
    bool: lambda value: isinstance(value, bool),
    int: lambda value: isinstance(value, int) and _number(value),
    float: _number,
    str: lambda value: isinstance(value, str) and "\0" not in value,
    Path: lambda value: isinstance(value, str) and "\0" not in value,
}


def _object_fits(kind: Any, origin: Any, value: Mapping[str, Any], made_by: Callable[[str], Any]) -> bool:
    """Whether the object of a description fits; where only its construction would tell, it does."""
    if kind in _SCALARS or kind is None:
        return False
    made: Any = made_by(value[TARGET])
    if made is None:  # nobody looks into the part yet
        return True
    if not inspect.isclass(made):
        made = None if value.get(PARTIAL) else _returned(made)
    wanted = origin or kind
    if value.get(PARTIAL):
        return wanted is Callable or getattr(wanted, "_is_protocol", False)
    if not inspect.isclass(made) or not inspect.isclass(wanted) or getattr(wanted, "_is_protocol", False):
        return inspect.isclass(wanted) and wanted not in (list, tuple, Sequence, dict, Mapping)
    return callable(made) and hasattr(made, "__call__") if wanted is Callable else issubclass(made, wanted)  # noqa: B004


def _returned(function: Any) -> Any:
    return _hints(getattr(function, "__func__", function)).get("return")


def words(kind: Any) -> str:
    """What may be given where `kind` is annotated, as a user reads it."""
    origin, options = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(words, sorted(options, key=lambda o: o is types.NoneType))))
    if origin is Literal:
        return ("one of " if len(options) > 1 else "") + ", ".join(map(str, options))
    if kind is types.NoneType or kind is None:
        return "null"
    if kind in WORDS:
        return WORDS[kind]
    container = origin or kind
    if inspect.isclass(container) and issubclass(container, Mapping):
        return "a mapping {name: value}"
    if inspect.isclass(container) and issubclass(container, tuple) and options and options[-1] is not ...:
        return f"a list [{', '.join(map(words, options))}]"
    listed = inspect.isclass(container) and container is not Callable and issubclass(container, Collection)
    if listed and container.__module__ in ("builtins", "collections.abc") and options:
        return f"a list of {words(options[0]).removeprefix('a ').removeprefix('one of ')}"
    return "a part with keys of its own (set them one by one)"


def told(value: Any) -> str:
    """A value as one would type it, shortened in its middle where it is long: a path is known by its end."""
    if isinstance(value, Mapping):
        text = "{" + ", ".join(f"{key}: {told(entry)}" for key, entry in list(value.items())[:4]) + "}"
    elif isinstance(value, list | tuple):
        text = f"[{', '.join(map(told, value[:8]))}]"
    elif isinstance(value, int) and not isinstance(value, bool) and abs(value) >= LARGEST:
        text = "a whole number of more than 18 digits"
    else:
        text = {None: "null", True: "true", False: "false"}.get(value, str(value)) if _plain(value) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:38]}...{text[-39:]}"


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, bool)
