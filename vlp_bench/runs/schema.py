"""What a composed configuration may hold: the top level as dataclasses, each part by its constructor's annotations.

The top level is read without importing anything heavy. Parts are checked where the command line reaches into one: what
conf/ holds is checked by the tests, and `construct` checks again whatever it is handed.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any, Literal

from vlp_bench.annotations import TARGET, columns, fits, told, words
from vlp_bench.construct import check_arguments, check_names, unknown
from vlp_bench.runs.terminal.conf import moved
from vlp_bench.runs.terminal.errors import UserError, unknown_part

PARTS = ("model", "pruner", "task", "data", "recipe", "trainer")  # what a run is built from
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
PruningPrecision = Literal["auto", "fp32", "tf32", "bf16"]
Accelerator = Literal["auto", "cpu", "gpu", "cuda"]
NARROWER = {"trainer.precision": Precision, "trainer.accelerator": Accelerator}  # than Lightning's own annotations
NAMED = ("model", "pruner", "task")  # parts whose choice stands in every row
LATER = {"task": ("model",), "logger": ("save_dir",)}  # arguments that a run adds
DECIDED = {  # arguments of the Trainer that follow from something else, and from what
    "max_epochs": "recipe.epochs", "min_epochs": "recipe.epochs", "max_steps": "recipe.epochs",
    "min_steps": "recipe.epochs", "max_time": "recipe.epochs", "accumulate_grad_batches": "recipe.target_batch",
    "gradient_clip_val": "recipe.clip", "logger": "logger=NAME", "default_root_dir": "paths.out",
    "fast_dev_run": "recipe.epochs",
}  # fmt: skip


@dataclass(frozen=True)
class Paths:
    """Where things lie; see conf/config.yaml."""

    out: str
    data: str | None = None
    weights: str | None = None
    vocab: str | None = None


@dataclass(frozen=True)
class Spice:
    corenlp_dir: str | None = None


@dataclass(frozen=True)
class Metrics:
    spice: Spice


@dataclass(frozen=True)
class Benchmark:
    """See conf/benchmark."""

    name: str
    says: str
    budget: Mapping[str, Any]
    vocab: str | None = None  # the words of its models; None: BERT's, wherever they are


@dataclass(frozen=True)
class Configuration:
    """The keys of a run; see conf/config.yaml."""

    experiment: str
    sparsity: float
    seed: int
    force: bool
    scores: bool
    debug: bool
    precision: Precision
    compile: bool
    recompute: bool
    paths: Paths
    metrics: Metrics
    benchmark: Benchmark
    model: Mapping[str, Any]
    pruner: Mapping[str, Any]
    task: Mapping[str, Any]
    data: Mapping[str, Any]
    recipe: Mapping[str, Any]
    trainer: Mapping[str, Any]
    logger: Mapping[str, Any]
    allow: list[str]
    pruning_seed: int = 0
    pruning_precision: PruningPrecision = "auto"
    checkpoint_minutes: float | None = None
    rehearse: bool = False
    dataset: str | None = None  # of clip_coop
    coop_sets: Mapping[str, Any] | None = None


def check(config: Mapping[str, Any], choices: Mapping[str, Any], overrides: Sequence[str] = ()) -> None:
    """Check a plain configuration, what was chosen of each group, and the words of its command line.

    Raises:
        UserError: the first key that is unknown, missing, decided elsewhere, or has a value that it cannot have.
    """
    for word in overrides:
        if re.match(r"\+{0,2}experiment=", word):
            raise UserError(f"{word}: the experiment is named by +exp=NAME, and this follows from it")
    if isinstance(recipe := config.get("recipe"), str):
        raise UserError(
            f"recipe={recipe}: a recipe is part of its task now; set recipe.epochs, recipe.target_batch or recipe.clip "
            "(recipe.epochs=0 trains nothing)"
        )
    for part in PARTS:
        if not isinstance(config.get(part), Mapping) or TARGET not in config[part]:
            raise UserError(_no_part(config, part))
        if not isinstance(choices.get(part, ""), str) or (part in NAMED and part not in choices):
            raise UserError(f"{_word(part, overrides)}: expected one choice; write {part}=NAME")
    _check_record(config, Configuration, "")
    _check_range(config)
    for key in sorted(set(DECIDED) & set(config["trainer"])):
        given, value = DECIDED[key], told(config["trainer"][key])
        raise UserError(f"trainer.{key}={value}: this is decided by {given}; set that instead")
    if config["task"].get("fused") and config["recipe"].get("clip") is not None:
        raise UserError(
            f"recipe.clip={told(config['recipe']['clip'])}: a fused step can't be clipped; set task.fused=false"
        )


def check_paths(paths: Mapping[str, Any]) -> None:
    """UserError for a path without a letter: a variable of the shell that is not set."""
    for name, place in paths.items():
        if isinstance(place, str) and not place.strip():
            raise UserError(f"paths.{name}={place}: expected a file or folder; is a variable of the shell not set?")


def _word(key: str, overrides: Sequence[str]) -> str:
    return next((word for word in overrides if word.lstrip("+~").partition("=")[0] == key), key)


def _no_part(config: Mapping[str, Any], part: str) -> str:
    if part not in config:
        return f"{part} is missing from the configuration; choose one with {part}=NAME"
    lacks = ", but its _target_ is missing" if isinstance(config[part], Mapping) else ""
    return f"{part}={told(config[part])}: expected a choice with keys of its own{lacks}; choose one with {part}=NAME"


def _check_record(given: Mapping[str, Any], record: type, where: str) -> None:
    known = columns(record)
    prefix = f"{where}." if where else ""
    for name in known.required - set(given):
        raise UserError(f"{prefix}{name} is missing from the configuration; set it with {prefix}{name}=VALUE")
    for name, value in given.items():
        key = f"{prefix}{name}"
        if name not in known.kinds and key.startswith("pruner/"):
            raise UserError(unknown_part(f"{key}={told(value)}", key.removeprefix("pruner/")))
        if name not in known.kinds:
            raise UserError(f"{key}={told(value)}: {unknown(str(name), list(known.kinds), where)}")
        kind = known.kinds[name]
        if is_dataclass(kind) and isinstance(value, Mapping):
            _check_record(value, kind, key)  # pyright: ignore[reportArgumentType]
        elif not fits(kind, value, _nothing):
            raise UserError(f"{key}={told(value)}: expected {_EXPECTED.get(key) or words(kind)}")


def _nothing(name: str) -> None:
    return None


_SPARSITY = "the share of weights removed, a number with 0 <= sparsity < 1, e.g. 0.9"
_SEED = f"a whole number from 0 to {2**32 - 1}"
_MINUTES = "0 or more minutes, or null for the end of epochs alone"
_EXPECTED = {"sparsity": _SPARSITY, "seed": _SEED, "pruning_seed": _SEED, "checkpoint_minutes": _MINUTES}


def _check_range(config: Mapping[str, Any]) -> None:
    if not 0 <= config["sparsity"] < 1:
        raise UserError(f"sparsity={config['sparsity']}: expected {_SPARSITY}")
    for name in ("seed", "pruning_seed"):
        if not 0 <= config.get(name, 0) < 2**32:
            raise UserError(f"{name}={told(config[name])}: expected {_SEED}")
    if (config.get("checkpoint_minutes") or 0) < 0:
        raise UserError(f"checkpoint_minutes={config['checkpoint_minutes']}: expected {_MINUTES}")


def reaches_into_parts(overrides: Sequence[str]) -> bool:
    """Whether a word of the command line changes something inside a part, so that its types have to be looked at."""
    inside = rf"[+~]*({'|'.join((*PARTS, 'logger'))})[./@]"
    return any(re.match(inside, word) for word in overrides)


def check_parts(config: Mapping[str, Any]) -> None:
    """Check every argument of every part against the annotations of its constructor, which are imported for it.

    Raises:
        UserError: the first key that the constructor does not have, or whose value is of another kind.
    """
    allow: Collection[str] = config.get("allow", ())
    parts = {part: (_looked_at(config, part), LATER.get(part, ())) for part in PARTS}
    loggers = {f"logger.{name}": (node, LATER["logger"]) for name, node in config["logger"].items()}
    for where, (node, later) in (parts | loggers).items():
        try:
            if not isinstance(node, Mapping) or TARGET not in node:
                raise ValueError(f"{where}={told(node)}: expected a part with keys of its own, its _target_ among them")
            check_arguments(node, where, allow, later, NARROWER)
        except ValueError as error:
            key = re.split(r"[= :]", str(error), maxsplit=1)[0]
            raise UserError(f"{error}{moved(key)}") from None


def _looked_at(config: Mapping[str, Any], part: str) -> Any:
    """A part without the Trainer's strategy: `process_plan` says which there are, and why not others."""
    node = config.get(part)
    if part != "trainer" or not isinstance(node, Mapping):
        return node
    return {key: value for key, value in node.items() if key != "strategy"}


def check_targets(config: Mapping[str, Any]) -> None:
    """Raise UserError for a `_target_` that is not on the list of `vlp_bench.construct`."""
    allow: Collection[str] = config.get("allow", ())
    for part in (*PARTS, "logger"):
        try:
            check_names(_looked_at(config, part), part, allow)
        except ValueError as error:
            raise UserError(str(error)) from None
