"""Pruners by name: the files of conf/pruner, read the way Hydra reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlp_bench.construct import conf_folder, construct
from vlp_bench.pruning.pruner import Pruner


def folder() -> Path:
    """conf/pruner, beside the package in a checkout, inside it when installed."""
    return conf_folder() / "pruner"


def names() -> list[str]:
    """Every pruner that can be asked for by name."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def load(name: str, options: Mapping[str, Any] | None = None) -> Pruner:
    """The pruner of conf/pruner/`name`.yaml with some of its keys set.

    Args:
        name: a file's name without its ending.
        options: keys of that file, or of what it is made of ("solve.within"); a group ("allocate", "solve") takes the
            name of another file of that group.

    Raises:
        ValueError: an unknown name or option, or a value it can't have; says what is allowed.
    """
    from omegaconf import OmegaConf  # here, as `import vlp_bench` and `--help` must stay light
    from omegaconf.errors import OmegaConfBaseException

    if name not in names():
        raise ValueError(f"unknown pruner {name!r}: use one of {', '.join(names())}")
    try:
        config = _composed(name, dict(options or {}))
        return construct(OmegaConf.to_container(config.pruner, resolve=True))
    except (ValueError, OmegaConfBaseException) as reason:
        raise ValueError(f"pruner {name!r}: {reason}") from reason


def _composed(name: str, options: dict[str, Any]) -> Any:
    """The file with its default groups filled in, under the key `pruner`, as in the configuration of a run."""
    from omegaconf import OmegaConf

    content: Any = OmegaConf.to_container(OmegaConf.load(folder() / f"{name}.yaml"))
    groups = {key: value for entry in content.pop("defaults", []) if entry != "_self_" for key, value in entry.items()}
    chosen = {group: options.pop(group) for group in list(groups) if isinstance(options.get(group), str)}
    config = OmegaConf.create({"pruner": {group: _group(group, file) for group, file in (groups | chosen).items()}})
    config.pruner.merge_with(content)
    for key, value in options.items():
        if key.startswith("_") or OmegaConf.select(config.pruner, key, default=config) is config:
            allowed = [key for key in config.pruner if not key.startswith("_") and key != "name"]
            raise ValueError(f"pruner {name!r} has no option {key!r}: use one of {', '.join(allowed)}")
        OmegaConf.update(config.pruner, key, value)
    return config


def _group(group: str, file: str) -> Any:
    from omegaconf import OmegaConf

    path = folder() / group / f"{file}.yaml"
    if not path.is_file():
        known = sorted(other.stem for other in path.parent.glob("*.yaml"))
        raise ValueError(f"unknown {group} {file!r}: use one of {', '.join(known)}")
    return OmegaConf.load(path)
