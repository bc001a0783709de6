"""Do all experiments still say the same? Record before a change of conf/, compare after it: no resolved value may move.

    python benchmarks/same_configurations.py record before.json [--conf FOLDER]
    python benchmarks/same_configurations.py compare before.json

Every experiment at both benchmarks with a few pruners, composed and resolved; what cannot be composed is recorded as
the error it gives. `--conf` records another checkout's. Names that were changed on purpose are translated (`RENAMED`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

CONF = Path(__file__).resolve().parents[1] / "conf"
BENCHMARKS = ("mini", "paper")
PRUNERS = ("dense", "multiflow", "omp", "chita", "wanda")
PATHS = ("data", "weights", "vocab")
COOP = "+exp=clip_coop dataset="
WORDS = {f"+exp=clip_{name}": COOP + name for name in (
    "caltech101", "dtd", "eurosat", "food101", "oxford_flowers", "oxford_pets", "stanford_cars", "sun397", "ucf101",
)}  # fmt: skip
"""What a command of before is called today."""
RENAMED = {"task.becomes": "task.task_model", "pruner.allocate.between": "pruner.allocate.group_by"}
CLASSES = {"Competition": "GlobalThreshold", "Total": "GlobalBudget", "Everything": "Dense"}
"""Of a `_target_` the last name counts, whatever module holds it."""
NEW = {"model.config.vision_eps", "model.config.text_eps", "data.max_unknown", "data.source.orientation",
       "data.source.least", "data.source.skip", "benchmark.vocab"}  # fmt: skip
"""Keys that have come since, with what was a constant of the code or with what is new."""
MACHINERY = ("coop_sets", "dataset")
"""Top-level keys that only serve to write others."""


def composed(conf: Path, words: list[str]) -> dict[str, Any] | str:
    """The resolved configuration, flat, without pruner machinery of other choices; or the kind of error."""
    OmegaConf.register_new_resolver("run_dir", lambda *_: "none", replace=True)
    given = [f"paths.{name}=/{name}" for name in PATHS]
    try:
        with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
            content = OmegaConf.to_container(compose("config", [*words, *given]), resolve=True)
    except Exception as error:  # whatever it says, it must say it before and after
        return type(error).__name__
    assert isinstance(content, dict)
    return dict(leaves({key: value for key, value in content.items() if key not in MACHINERY}))


def leaves(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict) and content:
        for key, value in content.items():
            yield from leaves(value, f"{prefix}.{key}".lstrip("."))
    else:
        yield prefix, content


def commands(conf: Path) -> Iterator[list[str]]:
    for experiment in sorted(path.stem for path in (conf / "exp").glob("*.yaml")):
        for benchmark in BENCHMARKS:
            for pruner in PRUNERS:
                yield [f"+exp={experiment}", f"benchmark={benchmark}", f"pruner={pruner}"]


def record(conf: Path) -> dict[str, Any]:
    return {" ".join(words): composed(conf, words) for words in commands(conf)}


def differences(before: Any, after: Any, ignored: tuple[str, ...]) -> Iterator[str]:
    if isinstance(before, str) or isinstance(after, str):
        if before != after:
            yield f"{_short(before)} -> {_short(after)}"
        return
    before, after = _named(_renamed(before)), _named(after)
    for key in sorted(before.keys() | after.keys() - NEW):
        if not key.startswith(ignored) and before.get(key, "absent") != after.get(key, "absent"):
            yield f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"


def _renamed(flat: dict[str, Any]) -> dict[str, Any]:
    """Keys below a renamed one follow it."""
    for old, new in RENAMED.items():
        flat = {new + key[len(old) :] if key.startswith(old) else key: value for key, value in flat.items()}
    return flat


def _named(flat: dict[str, Any]) -> dict[str, Any]:
    """`_target_` by the name of its class or function."""
    names = {key: str(value).rpartition(".")[2] for key, value in flat.items() if key.endswith("_target_")}
    return flat | {key: CLASSES.get(name, name) for key, name in names.items()}


def _short(found: Any) -> str:
    return found if isinstance(found, str) else f"{len(found)} values"


def compare(before: dict[str, Any], conf: Path, ignored: tuple[str, ...]) -> int:
    """Print what differs; how many commands do."""
    wrong = 0
    for command, config in before.items():
        words = WORDS.get(command.split()[0], command.split()[0]).split() + command.split()[1:]
        if found := list(differences(config, composed(conf, words), ignored)):
            wrong += 1
            print(command, *found, sep="\n  ")
    print(f"{len(before)} commands, {wrong} differ")
    return wrong


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("verb", choices=("record", "compare"))
    p.add_argument("file", type=Path)
    p.add_argument("--conf", type=Path, default=CONF)
    p.add_argument("--ignore", nargs="*", default=[], help="keys (and all below) not compared, e.g. pruner")
    args = p.parse_args()
    if args.verb == "record":
        args.file.write_text(json.dumps(record(args.conf), indent=1))
    else:
        sys.exit(compare(json.loads(args.file.read_text()), args.conf, tuple(args.ignore)) > 0)


if __name__ == "__main__":
    main()
