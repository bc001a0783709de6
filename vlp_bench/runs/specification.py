"""What a run is: its checked configuration, its identity, its folder. Nothing heavy is imported here.

A run's identity is a hash of everything that decides its numbers (model, weights, pruner, sparsity, task, data, recipe,
seed and version) and of nothing else (where files lie, what is displayed, which device). Its folder follows from it, so
the same command finds its own results and an interrupted one goes on.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from vlp_bench.annotations import told
from vlp_bench.models.checkpoints.locations import content_hash
from vlp_bench.pruning.options import constructor_call, typed_keys
from vlp_bench.results.pruner_names import DENSE
from vlp_bench.results.row import OWN
from vlp_bench.runs import schema
from vlp_bench.runs.rehearsal import rehearse
from vlp_bench.runs.terminal.conf import composed
from vlp_bench.runs.terminal.errors import UserError, reason
from vlp_bench.runs.terminal.help import no_experiment

OWN_KEYS = {  # of conf/data/own.yaml, which a command must give
    "data.root": "data.root=FOLDER (where annotations and images lie)",
    "data.format": "data.format=NAME (what the annotations are; for this task one of {formats})",
}
INCIDENTAL = {  # parts of the configuration that do not decide the numbers of a run
    "": {
        "paths", "pruning_seed", "force", "scores", "debug", "logger", "metrics", "precision", "compile", "recompute",
        "rehearse", "allow", "checkpoint_minutes",
        "dataset", "coop_sets",  # the experiment's name and its data say which set it is
    },
    "trainer": {"accelerator", "devices", "num_nodes", "strategy", "log_every_n_steps", "enable_model_summary"},
    "data": {"calibration_cache", "max_unknown", "sentences"},  # a tokenizer follows from weights and vocabulary
}  # fmt: skip


@dataclass(frozen=True)
class Specification:
    """A run before anything is built.

    `config` is plain and resolved; `choices` maps group to choice; `run` is the identity and `setting` that of
    everything but pruner and sparsity: runs with the same setting may be compared.
    """

    config: dict[str, Any] = field(repr=False)
    choices: dict[str, str]
    overrides: tuple[str, ...]
    run: str
    setting: str
    weights: str | None

    @property
    def out(self) -> Path:
        return Path(self.config["paths"]["out"])

    @property
    def name(self) -> str:
        """The folder of the run below outputs/runs: readable first, unique by its last part."""
        c = self.config
        words = [c["experiment"], self.benchmark, self.choices["pruner"], f"{c['sparsity']:g}", f"seed{c['seed']}"]
        return "-".join([*words, self.run])

    @property
    def benchmark(self) -> str:
        """What its rows say they are measured on: "mini", "paper", or "own" for data of one's own."""
        return benchmark_of(self.config)

    @property
    def folder(self) -> Path:
        return self.out / "runs" / self.name

    @property
    def as_shipped(self) -> bool:
        """Whether the command line has changed nothing that decides numbers but pruner, sparsity and seed."""
        changed = {re.split(r"[=./]", word.lstrip("+~"))[0] for word in self.overrides}
        free = INCIDENTAL[""] | {"exp", "benchmark", "pruner", "sparsity", "seed", "trainer", "hydra"}
        return changed <= free and not self.config["rehearse"]

    def identity(self) -> dict[str, Any]:
        """The columns of a result row that come from the specification."""
        c = self.config
        own = {"exp": c["experiment"], "benchmark": self.benchmark, "sparsity": c["sparsity"], "seed": c["seed"]}
        return (
            own | {k: self.choices[k] for k in ("model", "task", "pruner")} | {"run": self.run, "setting": self.setting}
        )

    def command(self, **changes: object) -> str:
        """The command line of this run, with some of its values changed; options of a changed group are left out."""
        dropped = {"force", "debug", *changes}
        kept = [word for word in self.overrides if re.split(r"[=./]", word.lstrip("+~"))[0] not in dropped]
        return " ".join(["vlp-bench run", *kept, *(f"{key}={value}" for key, value in changes.items())])


def own_data(config: Mapping[str, Any]) -> str:
    """'your own data in FOLDER' of a run on them, or on files that lie outside paths.data; empty for any other."""
    if says := config["data"].get("says"):
        return str(says)
    source, root = config["data"].get("source") or {}, f"{config['paths']['data']}/"
    named = {key: value for key in ("train", "val", "test", "root") for value in _files_of(source.get(key))}
    elsewhere = [f"data.source.{key}={file}" for key, file in named.items() if not file.startswith(root)]
    return f"your own data ({elsewhere[0]})" if elsewhere else ""


def _files_of(given: Any) -> list[str]:
    return [file for file in (given if isinstance(given, list) else [given]) if isinstance(file, str)]


def benchmark_of(config: Mapping[str, Any]) -> str:
    """Where the numbers of a configuration belong: its benchmark, or "own" with the sizes of either."""
    return OWN if own_data(config) else str(config["benchmark"]["name"])


def register() -> None:
    """Teach OmegaConf `${run_dir:}`, the folder of the run being composed, and `${classes_in:root,format,task}`.

    It refuses what cannot run, and that before Hydra makes the folder.
    """

    def run_dir(form: str = "whole", *, _root_: DictConfig) -> str:
        specification = specify(_root_, _root_.hydra)
        folder = specification.folder
        return str(folder.relative_to(_root_.paths.out) if form == "relative" else folder)

    def classes_in(root: str, form: str, task: str) -> int | None:
        from vlp_bench.data.datasets.own import number_of_classes

        return number_of_classes(root, form) if task.endswith(".Classification") else None

    OmegaConf.register_new_resolver("run_dir", run_dir, replace=True)
    OmegaConf.register_new_resolver("classes_in", classes_in, replace=True)


def specification_of(words: Iterable[str]) -> Specification:
    """The run that `vlp-bench run WORDS` would be.

    Raises:
        UserError: as `specify`.
        hydra.errors.HydraException: a word that names nothing.
    """
    register()
    config = composed(words)
    return specify(config, config.hydra)


def specify(config: DictConfig, hydra: Any) -> Specification:
    """Check a composed configuration (with or without Hydra's own node, `hydra`) and give the run its identity.

    Raises:
        UserError: no experiment, a value out of its range, or files that are not there.
    """
    if config.get("experiment") is None:
        raise UserError(no_experiment())
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    if OmegaConf.is_dict(own.get("paths")):
        schema.check_paths(OmegaConf.to_container(own.paths, resolve=False))  # pyright: ignore[reportArgumentType]
    if own.rehearse:
        rehearse(own)
    typed: Any = OmegaConf.to_container(hydra.overrides.task)  # not resolved
    overrides = tuple(map(str, typed))
    choices = {str(group): choice for group, choice in hydra.runtime.choices.items()}
    check_dataset(own)
    check_values(own)
    if OmegaConf.is_dict(own.get("pruner")) and "_target_" in own.pruner:
        _pruner_of(own, str(choices.get("pruner")), overrides)
    plain = _plain(own)
    schema.check(plain, choices, overrides)
    _check_own_keys(plain, choices, overrides)
    _check_files(own)
    schema.check_targets(plain)
    if schema.reaches_into_parts(overrides):
        schema.check_parts(plain)
    if plain["pruner"].get("allocate", {}).get("_target_") == DENSE:
        own.sparsity = plain["sparsity"] = 0.0  # asked for or not, nothing is removed: one run, not one per sparsity
    weights = weights_of(plain)
    essence = _essence(own, weights)
    return Specification(
        config=plain,
        choices={group: str(choice) for group, choice in choices.items()},
        overrides=overrides,
        run=digest(essence),
        setting=digest({key: value for key, value in essence.items() if key not in ("pruner", "sparsity")}),
        weights=weights,
    )


def _check_own_keys(config: Mapping[str, Any], choices: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """UserError for a typed setting of one's own data that the data of this task don't read."""
    if choices.get("data") != OWN:
        return
    from vlp_bench.data.datasets.own import readers, unread

    task = str(config["task"]["_target_"])
    typed = {found[1] for word in overrides if (found := re.match(r"\+{0,2}data\.(\w+)", word))}
    for key in unread(task, typed):
        raise UserError(
            f"data.{key}={told(config['data'][key])}: the data of {task.rpartition('.')[2]} don't read it, only those "
            f"of {', '.join(readers(key))}; leave it out"
        )


def _pruner_of(config: DictConfig, choice: str, overrides: Sequence[str]) -> None:
    """Puts what its constructor is called with in place of the pruner; what can't be resolved `_plain` will name."""
    with suppress(OmegaConfBaseException, RecursionError):
        config.pruner = constructor_call(config.pruner, choice, typed_keys(overrides))


def _plain(config: DictConfig) -> dict[str, Any]:
    try:
        content = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, RecursionError) as error:
        raise UserError(_unresolved_key(config) or reason(error)) from None
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def check_values(config: DictConfig) -> None:
    """UserError for keys that have no value yet: all of one's own data at once, with what may stand there."""
    missing = sorted(key for key, value in _leaves(_unresolved(config)) if value == "???")
    if not missing:
        return
    own = [key for key in missing if key in OWN_KEYS]
    if not own:
        raise UserError(f"{missing[0]} has no value yet; set it with {missing[0]}=VALUE")
    from vlp_bench.data.datasets.own import allowed_formats

    allowed = allowed_formats(str(config.task._target_))
    told = [OWN_KEYS[key].format(formats=", ".join(allowed)) for key in reversed(own)]
    typed = {"root": "my_pictures", "format": allowed[0]}
    words = [f"data.{key}={value if f'data.{key}' in own else config.data[key]}" for key, value in typed.items()]
    raise UserError(f"data=own lacks {' and '.join(told)}; e.g. +exp={config.experiment} data=own {' '.join(words)}")


def _unresolved_key(config: DictConfig) -> str:
    """The first key that stands for something that is not there, and why; empty where there is none."""
    raw = OmegaConf.to_container(config, resolve=False)
    assert isinstance(raw, dict)
    for key, text in _leaves({str(key): value for key, value in raw.items()}):
        try:
            OmegaConf.select(config, key, throw_on_resolution_failure=True, throw_on_missing=True)
        except RecursionError:
            return f"{key}={told(text)}: it stands for itself; write a value"
        except InterpolationKeyError as error:
            wanted = re.search(r"'([^']*)' not found", str(error))
            return f"{key}={told(text)}: there is no value {wanted[1] if wanted else 'of that name'} to stand for"
        except OmegaConfBaseException as error:
            why = reason(error)
            if why != " ".join(str(error).split()):  # what was found below data.root says itself which key it is of
                return why
            return f"{key}={told(text)}: {'it stands for itself; write a value' if 'Recursive' in why else why}"
    return ""


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield from _leaves({str(i): item for i, item in enumerate(value)}, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


# Files: whatever the configuration places under paths.data or paths.weights must be there. There is no second list.


def _check_files(config: DictConfig) -> None:
    missing = {key: place for root in ("data", "weights") for key, place in missing_files(config, root).items()}
    if missing:
        width = max(map(len, missing))
        places = "\n".join(f"  {key:<{width}}  {place}" for key, place in missing.items())
        raise UserError(
            f"benchmark={config.benchmark.name} needs files and folders that are not there; nothing was built. Looked "
            f"for:\n{places}\nPoint to them with paths.data=FOLDER and paths.weights=FOLDER, or to a single one with "
            "KEY=PATH; benchmark=mini runs the embedded world and needs none."
        )


def missing_files(config: DictConfig, root: str) -> dict[str, str]:
    """Key -> where it was looked for, of each value written as ${paths.<root>}/... in the configuration and not there.

    Where paths.<root> is not set, the place is written with <paths.root> in its stead.
    """
    check_dataset(config)
    leaves, below = _leaves(_unresolved(config)), f"${{paths.{root}}}"
    placed_below = [key for key, text in leaves if isinstance(text, str) and text.startswith(below)]
    if not placed_below:
        return {}
    given, placed, missing = config.paths[root], config.copy(), {}
    OmegaConf.update(placed, f"paths.{root}", f"<paths.{root}>" if given is None else str(given))
    for key in placed_below:
        place = str(OmegaConf.select(placed, key))
        if given is None:
            missing[key] = f"{place} (paths.{root} is not set)"
        elif not Path(place).exists():
            missing[key] = place
    return missing


def check_dataset(config: DictConfig) -> None:
    """Raise UserError for a `dataset` that the experiment does not know."""
    if (sets := config.get("coop_sets")) is not None and config.dataset not in sets:
        raise UserError(
            f"dataset={config.dataset}: there is no such data set; it is one of {', '.join(map(str, sets))}"
        )


def _unresolved(config: DictConfig) -> dict[str, Any]:
    content = OmegaConf.to_container(config, resolve=False)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items() if key != "paths"}


def weights_of(config: Mapping[str, Any]) -> str | None:
    """First 16 hex digits of the SHA-256 of `model.weights` (a path, pkg://package/file or hf:owner/name), or None."""
    given = config["model"].get("weights")
    if given is None:
        return None
    try:
        return content_hash(str(given))
    except FileNotFoundError as error:
        told = str(error.strerror)
        hint = f"no such file ({error.filename}); set paths.weights to the folder that holds it"
        raise UserError(f"model.weights={given}: {told if 'is not installed' in told else hint}") from None


# Identity


def digest(content: object) -> str:
    """Ten hex digits that stand for plain content, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:10]


def version() -> str:
    """The installed version of vlp_bench; 0 where it runs without being installed."""
    try:
        return metadata.version("vlp_bench")
    except metadata.PackageNotFoundError:
        return "0"


def _essence(config: DictConfig, weights: str | None) -> dict[str, Any]:
    """Dense that decides the numbers. Paths are replaced by their names: a moved folder is the same data."""
    neutral = config.copy()
    OmegaConf.update(neutral, "paths", {str(name): str(name) for name in config.paths}, merge=False)
    if config.metrics.spice.corenlp_dir is not None:  # whether SPICE is computed counts, where its jars lie does not
        OmegaConf.update(neutral, "metrics.spice.corenlp_dir", "corenlp")
    plain = _plain(neutral)
    for part, names in INCIDENTAL.items():
        node = plain if not part else plain[part]
        for name in names:
            node.pop(name, None)
    if plain.get("pruning_precision") == "auto":  # the same masks but for less than what another draw of data changes
        del plain["pruning_precision"]
    plain["model"] = plain["model"] | {"weights": weights}
    plain["benchmark"] = plain["benchmark"]["name"]
    return plain | {"version": version()}
