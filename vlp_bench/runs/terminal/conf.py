"""Where the configuration lies, what it offers and what a command's words make of it.

All but `composed` read file names and first lines only, so that help is quick.
"""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from vlp_bench.construct import PACKAGE as PACKAGE
from vlp_bench.construct import conf_folder as conf_folder
from vlp_bench.pruning.choices import names as part_names
from vlp_bench.spelling import did_you_mean

if TYPE_CHECKING:
    from omegaconf import DictConfig

EXPERIMENTS = next(
    (place for place in (PACKAGE / "experiments", PACKAGE.parent / "experiments") if place.is_dir()),
    PACKAGE / "experiments",
)
"""One folder for each published table: in a wheel inside the package, in a checkout beside it."""

_COOP = (
    *("caltech101", "dtd", "eurosat", "food101", "oxford_flowers"),
    *("oxford_pets", "stanford_cars", "sun397", "ucf101"),
)
_BLIP = {"retrieval": "itr", "captioning": "ic", "vqa": "vqa"}
REPLACED = {
    **{f"exp=clip_{name}": f"+exp=clip_coop dataset={name}" for name in _COOP},
    **{f"task={task}_blip_{at}": f"+exp=blip_{exp} benchmark={at}" for task, exp in _BLIP.items()
       for at in ("mini", "paper")},
    **{f"{group}=captioning_pretrain_{at}": f"+exp=xvlm_ic_pretrain benchmark={at}" for group in ("task", "data")
       for at in ("mini", "paper")},
    **{f"data=blip2_{exp}_paper": f"+exp=blip2_{exp}" for exp in ("gqa", "ic", "itr", "okvqa", "vqa")},
}  # fmt: skip
"""Choices that were, and what to write for them."""

MOVED = {  # keys of 0.1.0 -> where they are now
    "pruner.allocate.between": "pruner.allocate.group_by",
    "task.becomes": "task.task_model",
    "alone": "fresh_statistics",  # of sweep.yaml
}

_NEEDS = re.compile(r"^# Needs: (\w+), (\w+ \w+)\.$", re.MULTILINE)


def composed(words: Iterable[str], *, hydra: bool = True) -> "DictConfig":
    """What Hydra makes of a command's words, not resolved and not checked; with its own node, `hydra`, or without.

    Raises:
        hydra.errors.HydraException: a word that names nothing.
    """
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("config", list(words), return_hydra_config=hydra)


def groups() -> list[str]:
    """Names of the config groups: benchmark, data, exp, ..."""
    return sorted(folder.name for folder in conf_folder().iterdir() if folder.is_dir())


def choices(group: str) -> list[str]:
    """What may be written after `group=`."""
    if group.startswith("pruner/"):
        return part_names(group.removeprefix("pruner/"))
    return sorted(file.stem for file in (conf_folder() / group).glob("*.yaml") if not file.stem.startswith("_"))


def blurb(group: str, choice: str) -> str:
    """The first sentence of a yaml's first comment: what the choice is."""
    words: list[str] = []
    for line in (conf_folder() / group / f"{choice}.yaml").read_text(encoding="utf-8").splitlines():
        text = line.removeprefix("#").strip()
        if not line.startswith("#") or not text:
            break
        if not text.startswith("@package"):
            words.append(text)
    return re.split(r"(?<=\.)\s+(?=[A-Z])", " ".join(words))[0]


def stated_needs(pruner: str) -> tuple[str, str] | None:
    """What the scores of a pruner are made of, and its passes over the calibration batches, as its yaml states them.

    None: it doesn't. `pruning.needs.needs_of` sees them.
    """
    found = _NEEDS.search((conf_folder() / "pruner" / f"{pruner}.yaml").read_text(encoding="utf-8"))
    return (found[1], found[2]) if found else None


def closest(given: str, allowed: list[str]) -> str:
    """'; did you mean a or b?' for a misspelt name, else ''."""
    return did_you_mean(given, allowed)


def moved(key: str) -> str:
    """'; it is called task.task_model now' for a key that an earlier version had (or what lies in it), else ''."""
    for old, new in MOVED.items():
        if key == old or key.startswith(f"{old}."):
            return f"; it is called {new}{key.removeprefix(old)} now"
    return ""
