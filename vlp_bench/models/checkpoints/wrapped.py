"""The state dict inside of what training programs save: below a key, beside numbers, under the names of a wrapper."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

USUAL = ("state_dict", "model_state_dict", "module")
"""Where others keep it, beside the roots of the released files."""
BESIDE = (int, float, str, bool, type(None))
"""What may stand beside tensors: an epoch, a rate, a name."""
_COMPILED = re.compile(r"(^|\.)_orig_mod\.")
DEEPEST = 3


def state_of(content: Any, roots: Sequence[str]) -> dict[str, Tensor]:
    """The tensors by name, without the prefixes of DistributedDataParallel, torch.compile and Lightning.

    Args:
        roots: keys below which it may lie, those before others preferred.

    Raises:
        ValueError: there is none, or there are several and nothing says which.
    """
    named, lightning = content, False
    for _ in range(DEEPEST):
        if not isinstance(named, Mapping) or (root := _root(named, roots)) is None:
            break
        named, lightning = named[root], lightning or root == "state_dict"
    if not isinstance(named, Mapping):
        raise ValueError(f"no state dict at its top or under {', '.join((*roots, *USUAL))}")
    state = {name: value for name, value in named.items() if not isinstance(value, BESIDE)}
    strange = [name for name, value in state.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if strange or not state:
        raise ValueError(
            f"no state dict at its top or under {', '.join((*roots, *USUAL))}"
            + (f" ({strange[0]!r} is no tensor; keys: {', '.join(map(str, list(named)[:5]))})" if strange else "")
        )
    return _unwrapped(state, ("module.", "model.") if lightning else ("module.",))


def _root(named: Mapping[Any, Any], roots: Sequence[str]) -> str | None:
    """The key to look below, None where the tensors are here; ValueError if two of `USUAL` are there."""
    below = [key for key in (*roots, *USUAL) if isinstance(named.get(key), Mapping) and named[key]]
    if any(isinstance(value, Tensor) for value in named.values()) or not below:
        return None
    if below[0] in roots and not (below[0] == "model" and "state_dict" in below):
        return below[0]
    if len(below) > 1:
        raise ValueError(f"it holds several state dicts ({', '.join(below)}); keep one of them in a file of its own")
    return below[0]


def _unwrapped(state: dict[str, Tensor], prefixes: Sequence[str]) -> dict[str, Tensor]:
    """Without what wrappers put before every name; a compiled part may be anywhere in one."""
    names = {name: _COMPILED.sub(r"\1", name) for name in state}
    while found := next((p for p in prefixes if all(name.startswith(p) for name in names.values())), None):
        names = {name: short.removeprefix(found) for name, short in names.items()}
    if len(set(names.values())) < len(names):
        raise ValueError("two of its names are one without the prefix of torch.compile: it is no state dict of a model")
    return {names[name]: tensor for name, tensor in state.items()}
