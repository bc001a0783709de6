"""From descriptions to objects, in one place, and only by an explicit list.

A description is what conf/ and mask files hold: plain values, lists, mappings; a mapping with a `_target_` stands for
the call of what it names (with `_partial_: true` for that of `functools.partial`). What may be named is what conf/
names, the scores, schedules and sweeps of this package, and its tasks, data and Lightning's loggers. A class of one's
own has to be allowed by whoever types the command (`allow=[my_package.MyScore]`): no file can do it.
"""

import difflib
import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from vlp_bench.annotations import PARTIAL, TARGET, Parameters, fits, parameters, told, words
from vlp_bench.spelling import did_you_mean

PACKAGE = Path(__file__).resolve().parent
ROOMS = tuple(f"vlp_bench.pruning.{room}" for room in ("scores", "schedule", "sweep", "tokens", "values"))
"""Their functions may be named."""
KINDS = (  # public subclasses of these, where they are of this package or Lightning's
    "vlp_bench.tasks.finetuning.FineTuning",
    "lightning.pytorch.LightningDataModule",
    "lightning.pytorch.loggers.Logger",
)
HOMES = ("vlp_bench.", "lightning.pytorch.loggers.")
RENAMED = {"Everything": "Dense", "Total": "GlobalBudget", "Competition": "GlobalThreshold"}  # of 0.1.0
DEEPEST = 32  # no description of ours is half as deep
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def conf_folder() -> Path:
    """`conf/` of the checkout; of the installed package where there is no checkout.

    Raises:
        FileNotFoundError: neither is there.
    """
    places = [PACKAGE.parent / "conf", PACKAGE / "conf"]
    for place in places:
        if (place / "config.yaml").is_file():
            return place
    raise FileNotFoundError(f"no config.yaml in {' or '.join(map(str, places))}; install vlp_bench again")


# What may be named


@cache
def named() -> frozenset[str]:
    """Every `_target_` in a file of conf/; launchers are Hydra's business and left out."""
    texts = (file.read_text(encoding="utf-8") for file in conf_folder().rglob("*.yaml"))
    names = (name for text in texts for name in re.findall(r"_target_:\s*([\w.]+\w)", text))
    return frozenset(name for name in names if not name.startswith("hydra_plugins."))


def locate(name: Any, allow: Collection[str] = (), where: str = "") -> Callable[..., Any]:
    """The class or function of a `_target_`.

    Raises:
        ValueError: it is not on the list; nothing outside this package and Lightning's loggers was imported then.
    """
    if not isinstance(name, str) or not (name in named() or name in allow or _is_of_a_kind(name)):
        key = f"{where}.{TARGET}" if where else TARGET
        raise ValueError(f"{key}={told(name)}: {_refusal(name)}")
    try:
        return _imported(name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name} cannot be imported ({error})") from None


def _refusal(name: Any) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return "expected the dotted name of a class or function"
    last = name.rpartition(".")[2]
    last = RENAMED.get(last, last)
    moved = sorted(known for known in named() if known.rpartition(".")[2] == last)
    near = moved or difflib.get_close_matches(name, named(), n=2, cutoff=0.8)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"only what conf/ names may be constructed{hint}; a class of your own has to be allowed with allow=[NAME]"


@cache
def _is_of_a_kind(name: str) -> bool:
    """Whether a name is that of a public score, schedule or sweep, or of a subclass of `KINDS`, in a room of ours."""
    module, _, last = name.rpartition(".")
    if not _NAME.fullmatch(name) or not name.startswith(HOMES) or last.startswith("_"):
        return False
    try:
        found = _imported(name)
        if module in ROOMS:
            return inspect.isfunction(found) and found.__module__ == module
        return inspect.isclass(found) and issubclass(found, tuple(map(_imported, KINDS)))
    except (ImportError, AttributeError):
        return False


def _imported(name: str) -> Any:
    """What a dotted name stands for: in a module, or in a class of a module."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            found: Any = import_module(".".join(parts[:length]))
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise ImportError(f"no module {parts[0]!r}")


# Checking


def check_names(
    description: Any, where: str = "", allow: Collection[str] = (), within: tuple[str, ...] = ("",)
) -> None:
    """Raise ValueError for a `_target_` inside a description that is not on the list, or in none of these packages.

    What a file describes is of one kind: a mask's settings are a pruner, and never a logger or a reader of files.
    """
    for place, node in _nodes(description, where):
        locate_only(node[TARGET], allow, place)
        if not node[TARGET].startswith(within):
            allowed = " or ".join(package.rstrip(".") for package in within)
            raise ValueError(f"{_key(place, TARGET)}={told(node[TARGET])}: only what is of {allowed} belongs here")


def locate_only(name: Any, allow: Collection[str], where: str) -> None:
    """As `locate`, but nothing is imported for a name that stands in conf/ or is allowed."""
    if not (isinstance(name, str) and (name in named() or name in allow)):
        locate(name, allow, where)


def check_arguments(
    description: Any,
    where: str = "",
    allow: Collection[str] = (),
    later: Collection[str] = (),
    narrower: Mapping[str, Any] | None = None,
) -> None:
    """Check every argument in a description against the annotations of what it is for. Nothing is constructed.

    Args:
        later: arguments that are given when it is constructed.
        narrower: key -> the annotation that counts for it in place of the constructor's.

    Raises:
        ValueError: the first key that is not one of its own, is missing, or has a value of another kind.
    """
    for place, node in _nodes(description, where):
        target = locate(node[TARGET], allow, place)
        known = parameters(target)
        _check_values(known, node, place, partial(locate, allow=allow, where=place), narrower or {})
        missing = known.required - set(later if place == where else ()) - set(node)
        if missing and not node.get(PARTIAL):
            unless = "" if inspect.isclass(target) else f", unless {_key(place, PARTIAL)} is true"
            raise ValueError(f"{_key(place, sorted(missing)[0])} is missing: it has no default{unless}")


def _check_values(
    known: Parameters, node: Mapping[str, Any], where: str, made_by: Callable[[str], Any], narrower: Mapping[str, Any]
) -> None:
    for name, value in node.items():
        key = _key(where, name)
        if name == PARTIAL:
            kind: Any = bool
        elif name == TARGET:
            continue
        elif name in known.kinds or known.open:
            kind = narrower.get(key, known.kinds.get(name, Any))
        else:
            raise ValueError(f"{key}={told(value)}: {unknown(str(name), list(known.kinds), where)}")
        if not fits(kind, value, made_by):
            lacks = "; its _target_ is missing" if isinstance(value, Mapping) and TARGET not in value else ""
            choices = [choice for choice in get_args(kind) if isinstance(choice, str)]
            hint = did_you_mean(value, choices) if isinstance(value, str) else ""
            raise ValueError(f"{key}={told(value)}: expected {words(kind)}{_quotes(kind, value)}{lacks}{hint}")


def _quotes(kind: Any, value: Any) -> str:
    """How to say a text that looks like something else."""
    text = "text" in words(kind) or "path" in words(kind)
    return f"; in quotes if it is one: \"'{value}'\"" if text and isinstance(value, int | float) else ""


def unknown(name: str, allowed: list[str], where: str) -> str:
    """'there is no value ...; allowed in task: ...; did you mean ...?'"""
    hint = did_you_mean(name, allowed)
    place = f" in {where}" if where else ""
    return f"there is no value {_key(where, name)}; allowed{place}: {', '.join(sorted(allowed)) or 'nothing'}{hint}"


def _key(where: str, name: object) -> str:
    return f"{where}.{name}" if where else str(name)


def _nodes(description: Any, where: str, depth: int = 0) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping with a `_target_`, outermost first, with its key.

    Raises:
        ValueError: deeper than anything of ours.
    """
    if depth > DEEPEST:
        raise ValueError(f"{where[:60]}... is nested more than {DEEPEST} deep")
    if isinstance(description, Mapping):
        if TARGET in description:
            yield where, description
        for key, value in description.items():
            yield from _nodes(value, _key(where, key), depth + 1)
    elif isinstance(description, list | tuple):
        for number, value in enumerate(description):
            yield from _nodes(value, _key(where, number), depth + 1)


# Constructing


def construct(description: Any, where: str = "", allow: Collection[str] = ()) -> Any:
    """The object of a description; lists and mappings reach its constructor as plain ones.

    Args:
        where: key of the description, for messages.
        allow: names beyond the list, of classes and functions of the user's own.

    Raises:
        ValueError: a name that is not on the list (before anything is constructed), an argument that the constructor
            does not have or of another kind than annotated, or what a constructor says of its arguments.
    """
    check_names(description, where, allow)
    check_arguments(description, where, allow)
    return _made(description, where, allow)


def maker(description: Mapping[str, Any], where: str = "", allow: Collection[str] = ()) -> Callable[..., Any]:
    """The constructor with its arguments filled in, for objects that need more than a description says."""
    return construct({**description, PARTIAL: True}, where, allow)


def _made(value: Any, where: str, allow: Collection[str]) -> Any:
    if isinstance(value, list | tuple):
        return [_made(entry, _key(where, number), allow) for number, entry in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    parts = {key: _made(entry, _key(where, key), allow) for key, entry in value.items() if key not in (TARGET, PARTIAL)}
    if TARGET not in value:
        return parts
    target = locate(value[TARGET], allow, where)
    return partial(target, **parts) if value.get(PARTIAL) else _called(target, parts, where)


def _called(target: Callable[..., Any], arguments: Mapping[str, Any], where: str) -> Any:
    try:
        return target(**arguments)
    except ValueError as error:
        if not where or str(error).startswith(where):
            raise
        raise ValueError(f"{where}: {error}") from error
