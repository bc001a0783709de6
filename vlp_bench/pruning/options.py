"""The keys a user types under `pruner.`, and what of them reaches a constructor.

A key of a pruner's yaml is an argument of `Pruner`, or a shortcut: a value that parts refer to (`${..ridge}`), which
ends here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from vlp_bench.pruning.choices import GROUPS, declared, folder
from vlp_bench.spelling import did_you_mean

if TYPE_CHECKING:
    from omegaconf import DictConfig

MOVED = {"between": "group_by"}  # keys of 0.1.0


def constructor_call(node: DictConfig, name: str, typed: Collection[str] = ()) -> dict[str, Any]:
    """A composed pruner as plain, resolved content without its shortcuts: what its constructor is called with.

    Args:
        node: under the key `pruner` of its configuration.
        name: of the pruner, for messages.
        typed: keys of the node that the user gave; each must be of use. (One of the pruner's file may have lost the
            part that it was for.)

    Raises:
        ValueError: a key that no part has; says which there are.
    """
    from omegaconf import OmegaConf

    fields = declared(str(node.get("_target_"))) or list(node)
    of_use = [key for key in node if key in fields or key in shortcuts(node)]
    for key in map(str, node):
        if not key.startswith("_") and key not in of_use and (key in typed or key not in _of_files()):
            raise unknown(name, key, of_use)
    content: Any = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    call = {key: value for key, value in content.items() if key.startswith("_") or key in fields}
    for part in GROUPS:
        _check_part(name, part, call.get(part))
    return call


def unknown(name: str, key: str, allowed: Collection[Any]) -> ValueError:
    """The error for a key that a pruner doesn't have."""
    told = [str(key) for key in allowed if not str(key).startswith("_") and key != "name"]
    hint = "" if moved(key) else did_you_mean(key, told)
    cure = f"use one of {', '.join(told)}" if told else f"{key.rpartition('.')[0]} takes none"
    return ValueError(f"pruner {name!r} has no option {key!r}{moved(key)}: {cure}{hint}")


def moved(key: str) -> str:
    """' (it is ... now)' for a key that had another name."""
    parent, _, last = key.rpartition(".")
    return f" (it is {'.'.join(filter(None, (parent, MOVED[last])))} now)" if last in MOVED else ""


def typed_keys(words: Collection[str]) -> set[str]:
    """The keys right below `pruner` that a command line sets."""
    return {found[1] for word in words if (found := re.match(r"\+{0,2}pruner\.(\w+)", word))}


def _check_part(name: str, path: str, content: Any) -> None:
    """Raises ValueError for an argument that a part's constructor doesn't have."""
    if not isinstance(content, Mapping):
        return
    allowed = declared(str(content.get("_target_")))
    for key, value in content.items():
        if allowed is not None and not key.startswith("_") and key not in allowed:
            raise unknown(name, f"{path}.{key}", [f"{path}.{own}" for own in allowed])
        _check_part(name, f"{path}.{key}", value)


def shortcuts(node: DictConfig) -> set[str]:
    """The keys of a composed pruner that its parts refer to."""
    from omegaconf import OmegaConf

    return {key for part in GROUPS if part in node for key in _references(OmegaConf.to_yaml(node[part]))}


def _references(text: str) -> list[str]:
    return re.findall(r"\.\.(\w+)", text)


def _of_files() -> set[str]:
    """The shortcuts that any part could refer to."""
    texts = [file.read_text(encoding="utf-8") for group in GROUPS for file in (folder() / group).glob("*.yaml")]
    return {key for text in texts for key in _references(text)} | {"steps", "compat"}
