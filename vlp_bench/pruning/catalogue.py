"""Pruners by name: the files of conf/pruner, read the way Hydra reads them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from vlp_bench.construct import construct
from vlp_bench.pruning.checks import check_choice
from vlp_bench.pruning.choices import GROUPS, folder, generated, names, register_resolver
from vlp_bench.pruning.options import constructor_call, shortcuts, unknown
from vlp_bench.pruning.pruner import Pruner
from vlp_bench.spelling import did_you_mean

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["build", "folder", "load", "names"]


def load(name: str, options: Mapping[str, Any] | None = None, allow: Collection[str] = ()) -> Pruner:
    """The pruner of conf/pruner/`name`.yaml with some of its keys set.

    Args:
        name: a file's name without its ending.
        options: keys of that file, or of what it is made of ("solve.within"); a group ("allocate", "solve",
            "schedule", "sweep", "tokens", "values") takes the name of one of its choices.
        allow: names of functions and classes of your own that `options` may name.

    Raises:
        ValueError: an unknown name or option, or a value it can't have; says what is allowed.
    """
    from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

    if not isinstance(options, Mapping | None) or not all(isinstance(key, str) for key in options or ()):
        raise ValueError(f"options are a mapping of the pruner's keys to values, got {options!r}")
    check_choice("pruner", name, names())
    try:
        typed = [key.partition(".")[0] for key in options or {}]
        return build(_composed(name, dict(options or {})), name, typed, allow)
    except InterpolationKeyError as reason:
        lacking = re.search(r"'(.*?)'", str(reason))
        raise ValueError(
            f"pruner {name!r} needs {lacking[0] if lacking else 'another option'} here: give it"
        ) from reason
    except OmegaConfBaseException as reason:
        raise ValueError(f"pruner {name!r}: {' '.join(str(reason).split())}") from reason


def build(node: DictConfig, name: str = "", typed: list[str] | None = None, allow: Collection[str] = ()) -> Pruner:
    """The pruner of a composed configuration, `config.pruner`; see `options.constructor_call`.

    Raises:
        ValueError: an option or a value it can't have; says what is allowed.
    """
    call = constructor_call(node, name or str(node.get("name")), typed or ())
    try:
        return construct(call, allow=allow)
    except ValueError as reason:
        raise ValueError(f"pruner {name!r}: {reason}") from reason


def _composed(name: str, options: dict[str, Any]) -> DictConfig:
    """The file with its default groups filled in, under the key `pruner`, as in the configuration of a run."""
    from omegaconf import OmegaConf

    register_resolver()
    content: Any = OmegaConf.to_container(OmegaConf.load(folder() / f"{name}.yaml"))
    chosen = {
        group: file for entry in content.pop("defaults", []) if entry != "_self_" for group, file in entry.items()
    }
    chosen |= {group: options.pop(group) for group in GROUPS if isinstance(options.get(group), str)}
    config = OmegaConf.create({"pruner": {group: _part(group, choice) for group, choice in chosen.items()}})
    config.pruner.merge_with(content)
    known = {*config.pruner, *shortcuts(config.pruner)}
    for key, value in options.items():
        group = key.partition(".")[0]
        allowed = f"one of {', '.join(names(group))}" if group in GROUPS else ""
        if key in GROUPS and not isinstance(value, Mapping):
            own = "" if isinstance(value, str) else "; a part of your own goes into a Pruner(...) of parts"
            raise ValueError(f"pruner {name!r}: {key}={value!r}: use {allowed}{did_you_mean(value, names(key))}{own}")
        if group in GROUPS and group not in known:
            raise ValueError(f"pruner {name!r} has no {group} that {key!r} is of: choose {allowed}")
        if key.startswith("_") or group not in known:
            raise unknown(name, key, list(config.pruner))
        OmegaConf.update(config.pruner, key, value)
    return config.pruner


def _part(group: str, choice: str) -> Any:
    from omegaconf import OmegaConf

    check_choice(group, choice, names(group))
    path = folder() / group / f"{choice}.yaml"
    return OmegaConf.load(path) if path.is_file() else generated(group)[choice]
