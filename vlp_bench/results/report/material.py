"""What a report is written from: stored rows sorted into studies, the masks and curves of their runs, nothing computed.

A *study* is what may stand in one table: one experiment on one benchmark with one recipe, one data set and one set of
weights. Only pruner, sparsity and seeds differ inside it. Two recipes are two studies, however alike their names.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vlp_bench.annotations import TARGET as NAMES_A_CLASS
from vlp_bench.pruning.solution import Solution, TableRow
from vlp_bench.results import curves, examples
from vlp_bench.results.pruner_names import pattern_of
from vlp_bench.results.row import Row
from vlp_bench.results.store import Store, appended_last, matching
from vlp_bench.results.tables import headlines

INCIDENTAL = (  # what may differ inside a study: the first four are told apart, the others decide no number
    "pruner", "sparsity", "seed", "pruning_seed", "paths", "force", "scores", "debug", "logger", "metrics", "precision",
    "pruning_precision", "compile", "recompute", "trainer", "allow",
)  # fmt: skip
TARGET = "._target_"
PAPERS = "paper"  # the benchmark whose numbers may stand beside the published ones


@dataclass(frozen=True)
class Mask:
    """One stored mask: where its weights were removed, and its bits, eight in a byte, by layer."""

    pruner: str
    sparsity: float
    seeds: tuple[int, ...]  # of the runs that used it
    table: tuple[TableRow, ...]
    blocks: Mapping[str, str] = field(repr=False)  # layer -> "modality · block", in the order of the model
    bits: Mapping[str, np.ndarray] = field(repr=False)
    file: Path | None = None  # where it is stored

    @property
    def name(self) -> str:
        """The pruner, with its seed where other seeds have another mask."""
        return self.pruner if len(self.seeds) != 1 else f"{self.pruner}, seed {self.seeds[0]}"


@dataclass(frozen=True)
class Study:
    """Runs that may be compared. `origin` holds a run's provenance, `folders` where it lies; `frame` its numbers."""

    exp: str
    benchmark: str
    key: str
    frame: pd.DataFrame = field(repr=False)
    origin: Mapping[str, Mapping[str, Any]] = field(repr=False)
    folders: Mapping[str, Path] = field(repr=False)
    masks: Sequence[Mask] = field(default=(), repr=False)

    @property
    def metrics(self) -> list[str]:
        """The metrics shown, see `tables.headlines`."""
        return headlines(self.frame.loc[self.frame["split"] == "test", "metric"])

    @property
    def pruners(self) -> list[str]:
        """Dense first, then by name."""
        return sorted(set(self.frame["pruner"]), key=lambda name: (name != "dense", name))

    def called(self, pruner: str) -> str | None:
        """What a pruner is called here: 'flap (units)' of flap. None if it was not run, or with several options."""
        named = [own for own in self.pruners if own.partition(" (")[0] == pruner]
        return pruner if pruner in named else named[0] if len(named) == 1 else None

    @property
    def model(self) -> str:
        """The name of a model that was measured as it is; empty where the experiment's name says which it is."""
        config = next(iter(self.origin.values()))["config"]
        return str(config["model"].get("name", "")) if _as_it_is(config) else ""

    @property
    def unseeded(self) -> tuple[str, ...]:
        """Pruners whose number is one, whatever the seed: dense, of a model that was measured as it is."""
        return ("dense",) if self.model else ()

    @property
    def sparsities(self) -> list[float]:
        return sorted(set(self.frame.loc[self.frame["sparsity"] > 0, "sparsity"]))

    @property
    def source(self) -> str:
        """The files the runs were trained on, below paths.data where they lie there; empty for the embedded world."""
        config = next(iter(self.origin.values()))["config"]
        files = _files(config)
        root = (config.get("paths") or {}).get("data") or ""
        return ", ".join(file.removeprefix(f"{root}/") if root else file for file in files)

    @property
    def rehearsed(self) -> bool:
        """Whether its runs are rehearsals, whose numbers mean nothing."""
        return bool(next(iter(self.origin.values()))["config"].get("rehearse"))

    @property
    def papers(self) -> bool:
        """Whether the data may be the papers': of their benchmark, below paths.data, and no rehearsal."""
        config = next(iter(self.origin.values()))["config"]
        root = (config.get("paths") or {}).get("data") or ""
        below = all(file.startswith(f"{root}/") for file in _files(config))
        return self.benchmark == PAPERS and below and not self.rehearsed

    @property
    def seeds(self) -> list[int]:
        return sorted(set(self.frame["seed"]))

    def runs(self) -> list[tuple[str, str]]:
        """(pruner, run), each once."""
        return list(dict.fromkeys(zip(self.frame["pruner"], self.frame["run"], strict=True)))

    def hardware(self) -> list[str]:
        """Every kind of hardware the runs used: differences across them are not the pruner's alone."""
        return sorted({_device(origin["hardware"]) for origin in self.origin.values()})

    def curves(self, run: str) -> pd.DataFrame:
        """The last curves of a run as its CSV logger wrote them; empty where there are none."""
        versions = (self.folders[run] / "curves").glob("version_*/metrics.csv")
        files = sorted(versions, key=lambda file: int(file.parent.name.removeprefix("version_")))
        return curves.read(files[-1]) if files else pd.DataFrame()

    def examples(self, run: str) -> examples.Arrays:
        """What the run did with each test example; empty where the task kept nothing."""
        return examples.read(self.folders[run])


def mask_of(solution: Solution, pruner: str, sparsity: float, seeds: tuple[int, ...], file: Path | None = None) -> Mask:
    """A stored solution as a report needs it."""
    layers = solution.report["layers"]
    blocks = {name: block_name(layer["modality"], layer["block"]) for name, layer in layers.items()}
    bits = {name: np.packbits(mask.cpu().numpy().reshape(-1)) for name, mask in solution.masks.items()}
    return Mask(pruner, sparsity, seeds, tuple(solution.table()), blocks, bits, file)


def block_name(modality: str, block: str) -> str:
    """Modality and the last two words of the block's dotted name."""
    return f"{modality} · {'.'.join(block.split('.')[-2:])}"


def studies(store: Store, runs: Collection[str] | None = None) -> list[Study]:
    """All studies of a store, in the order of their names; of some of its runs alone, where `runs` names them."""
    first = {row.run: (folder, row) for folder, row in _first_rows(store) if runs is None or row.run in runs}
    frame = matching(store.query(), run=list(first))
    keys = {run: _key(row) for run, (_, row) in first.items()}
    labels = _labels({run: (row, keys[run]) for run, (_, row) in first.items()})
    seeds = {run: _pruning_seed(row) for run, (_, row) in first.items()}
    frame = frame.assign(
        pruner=[labels[run] for run in frame["run"]],
        key=[keys[run] for run in frame["run"]],
        pruning_seed=[seeds[run] for run in frame["run"]],
    )
    found = []
    for exp, benchmark, key in sorted({*zip(frame["exp"], frame["benchmark"], frame["key"], strict=True)}):
        part = matching(frame, exp=exp, benchmark=benchmark, key=key)
        runs = list(dict.fromkeys(part["run"]))
        origin = {run: first[run][1].provenance for run in runs}
        folders = {run: first[run][0] for run in runs}
        found.append(Study(exp, benchmark, key, part.reset_index(drop=True), origin, folders))
    return found


def _first_rows(store: Store) -> Iterator[tuple[Path, Row]]:
    """Folder and newest first row of every run."""
    for folder in sorted(path.parent for path in store.root.glob("*/rows.jsonl")):
        rows = list(store.rows(folder.name))
        if rows:
            yield folder, appended_last(rows)[0]


def _key(row: Row) -> str:
    """What the runs of a study share: everything that decides a number but pruner, sparsity and seeds."""
    config = {key: value for key, value in row.provenance["config"].items() if key not in INCIDENTAL}
    weights, version = row.provenance["weights"], row.provenance["versions"].get("vlp_bench")
    if _as_it_is(config):
        config |= {"model": None, "data": row.provenance["data"]}
    if isinstance(config.get("model"), dict):  # where the file lies is not what it holds
        config["model"] = {key: value for key, value in config["model"].items() if key != "weights"}
    if isinstance(config.get("data"), dict):  # its tokenizer lies beside the weights
        config["data"] = {key: value for key, value in config["data"].items() if key != "sentences"}
    return _digest([_without_seeds(config), weights, version])


def _as_it_is(config: Mapping[str, Any]) -> bool:
    """Whether a model was measured as it is: it and the data go by what they hold, not by their folders."""
    model = config.get("model")
    return isinstance(model, dict) and NAMES_A_CLASS not in model


def _without_seeds(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_seeds(value) for key, value in content.items() if key != "seed"}
    return [_without_seeds(item) for item in content] if isinstance(content, list) else content


def _pruning_seed(row: Row) -> int:
    """The seed of the calibration data; 0, as published, where the configuration says nothing."""
    calibration = (row.provenance["config"].get("data") or {}).get("calibration") or {}
    return int(calibration.get("seed") or 0)


def _device(hardware: Mapping[str, Any]) -> str:
    """The GPUs, else the processor; of rows that don't name it, its kind."""
    processor = hardware.get("processor") or f"{hardware.get('machine', '?')} CPU"
    return " + ".join(hardware.get("gpus") or [processor])


def _files(config: Mapping[str, Any]) -> list[str]:
    """What the data of a configuration are trained on: files or a folder; none of the embedded world."""
    data = config.get("data") or {}
    source = data.get("source") or data  # data=own names its files itself
    given = source.get("train") or source.get("root") or []
    return [str(file) for file in (given if isinstance(given, list) else [given]) if isinstance(file, str)]


def _options(row: Row) -> dict[str, str]:
    """The pruner's options, flat, without seeds and names."""
    return dict(_flat(_without_seeds(row.provenance["config"].get("pruner") or {})))


def _flat(content: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(content, dict):
        for key, value in content.items():
            if key != "name":
                yield from _flat(value, f"{prefix}{key}.")
    else:
        yield prefix.rstrip("."), str(content)


def _labels(runs: Mapping[str, tuple[Row, str]]) -> dict[str, str]:
    """Run -> its pruner's name with its pattern, and what sets it apart from others of that name in the same study."""
    labels = {}
    options = {run: _options(row) for run, (row, _) in runs.items()}
    for run, (row, key) in runs.items():
        others = [options[r] for r, (o, k) in runs.items() if (o.pruner, k) == (row.pruner, key)]
        names = sorted(set().union(*others))
        apart = [n for n in names if "." not in n and len({o.get(n) for o in others}) > 1]
        apart = apart or [n for n in names if len({o.get(n) for o in others}) > 1]
        pattern = pattern_of(row.provenance["config"].get("pruner"))
        words = [pattern, *(_told(option, options[run].get(option)) for option in _outermost(apart))]
        told = ", ".join(dict.fromkeys(filter(None, words)))
        labels[run] = f"{row.pruner} ({told})" if told else row.pruner
    return labels


def _told(option: str, value: str | None) -> str:
    """'ridge=0.1' of solve.ridge; 'solve=SparseGPT' of a class; a pattern is told as it is."""
    if option.endswith(TARGET):
        return f"{option.removesuffix(TARGET)}={str(value).rpartition('.')[2]}"
    name = option.rpartition(".")[2]
    return str(value) if name == "within" and ":" in str(value) else f"{name}={value}"


def _outermost(names: Sequence[str]) -> list[str]:
    """Options without those of a part that is another one altogether (`solve._target_`): they say no more."""
    parts = [n.removesuffix(TARGET) for n in names if n.endswith(TARGET)]
    return [n for n in names if not any(n.startswith(f"{p}.") and n != f"{p}{TARGET}" for p in parts)]


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:8]
