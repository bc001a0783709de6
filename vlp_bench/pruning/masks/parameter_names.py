"""Parameters by name, whatever wraps a model: what `torch.compile` and DDP put into names makes no other weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

WRAPPERS = frozenset({"_orig_mod", "module", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"})


def unwrapped(name: str) -> str:
    """A parameter's name without the parts that wrappers add."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def matched(names: Iterable[str], parameters: Collection[str]) -> dict[str, str]:
    """The names of a model's parameters by the names that masks have for them; those it hasn't are left out.

    Raises:
        ValueError: a mask fits several parameters, which differ only in what wraps them.
    """
    by_plain_name: dict[str, list[str]] = {}
    for own in parameters:
        by_plain_name.setdefault(unwrapped(own), []).append(own)
    fitting = {name: [name] if name in parameters else by_plain_name.get(unwrapped(name), []) for name in names}
    for name, several in fitting.items():
        if len(several) > 1:
            raise ValueError(f"the mask of {name!r} fits several parameters of the model: {', '.join(several)}")
    return {name: own[0] for name, own in fitting.items() if own}


def renaming(names: list[str], parameters: list[str]) -> Callable[[str], str]:
    """What turns the names that masks have into a model's: it may be part of what they were found on, or hold it.

    Raises:
        ValueError: several parts of the model fit.
    """
    if prefix := find_prefix(names, parameters):
        return lambda name: f"{prefix}{name}"
    if holder := _find_holder(names, parameters):
        return lambda name: unwrapped(name).removeprefix(holder)
    return lambda name: name


def _find_holder(names: list[str], parameters: list[str]) -> str:
    """What stands before every one of `names` and is gone in `parameters`, as in "model."; "" where nothing fits."""
    plain, known = [unwrapped(name) for name in names], {unwrapped(name) for name in parameters}
    parts = plain[0].split(".") if plain else []
    heads = (".".join(parts[:length]) + "." for length in range(1, len(parts)))
    fitting = (h for h in heads if all(n.startswith(h) and n.removeprefix(h) in known for n in plain))
    return "" if set(plain) <= known else next(fitting, "")


def find_prefix(names: list[str], parameters: list[str]) -> str:
    """What stands before every one of `names` among `parameters`, as in "model."; "" where nothing fits.

    Raises:
        ValueError: several parts of the module fit.
    """
    names, parameters = [unwrapped(name) for name in names], [unwrapped(name) for name in parameters]
    known = set(parameters)
    candidates = [p.removesuffix(n) for n in names[:1] for p in parameters if p == n or p.endswith(f".{n}")]
    fitting = [prefix for prefix in candidates if all(f"{prefix}{name}" in known for name in names)]
    if len(fitting) > 1 and "" not in fitting:
        raise ValueError(f"the masks fit several parts of the module ({', '.join(fitting)}): say which with prefix=")
    return "" if "" in fitting or not fitting else fitting[0]
