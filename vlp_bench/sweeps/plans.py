"""The folders under experiments/: which runs make a published table. Plain data, checked; nothing is composed here."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vlp_bench.annotations import columns, fits, told
from vlp_bench.annotations import words as in_words
from vlp_bench.runs.terminal.conf import EXPERIMENTS, choices, closest, moved
from vlp_bench.runs.terminal.errors import UserError
from vlp_bench.sweeps.grid import Grid

FOLDER = EXPERIMENTS
RIDGE_PRUNERS = ("chita", "chita_pp")


@dataclass(frozen=True)
class Part:
    """Runs that share their options.

    Args:
        exp: names of conf/exp.
        pruner, sparsity, seed: as of a comparison.
        dense: whether the dense run of every seed belongs to it; it is planned without being named.
        fresh_statistics: every mask gets a calibration pass and a folder of its own, so that its seconds are its own.
        ridge: "chosen" gives CHITA and CHITA++ the ridge of `commands.ridge`; "default" that of their yaml.
        overrides: words for the command line of every run.
        grid: key -> values; every combination is a set of runs.
        benchmark: a name of conf/benchmark, for what only one of them has; "" for "mini" and "paper".

    Raises:
        UserError: something is empty, or `ridge` or `benchmark` is not one of theirs.
    """

    exp: tuple[str, ...]
    pruner: tuple[str, ...]
    sparsity: tuple[float, ...]
    seed: tuple[int, ...]
    dense: bool = True
    fresh_statistics: bool = False
    ridge: str = "default"
    overrides: tuple[str, ...] = ()
    grid: Mapping[str, Sequence[Any]] | None = None
    benchmark: str = ""

    def __post_init__(self) -> None:
        for name in ("exp", "pruner", "sparsity", "seed"):
            if not getattr(self, name):
                raise UserError(f"a part of sweep.yaml needs at least one {name}")
        if self.ridge not in ("default", "chosen"):
            raise UserError(f"ridge in sweep.yaml is 'default' or 'chosen', got {self.ridge!r}")
        if self.benchmark not in ("", *choices("benchmark")):
            raise UserError(f"benchmark in sweep.yaml is one of {choices('benchmark')}, got {self.benchmark!r}")

    def grids(self, exp: str, words: Sequence[str], ridges: Mapping[str, float], workers: int) -> Iterator[Grid]:
        """The comparisons of one experiment, each computed from one calibration pass.

        Args:
            words: from the command line, behind the part's own.
            ridges: pruner -> ridge, of those whose ridge was chosen.
        """
        common = (f"+exp={exp}", *self.overrides)
        if self.dense:
            tuned = [word for word in common if not word.startswith("pruner")]
            yield Grid(("dense",), self.sparsity, self.seed, workers, (*tuned, *words))
        for pruners, levels, extra in self._groups(ridges):
            yield Grid(pruners, levels, self.seed, workers, (*common, *extra, *words))

    def _groups(self, ridges: Mapping[str, float]) -> Iterator[tuple[tuple[str, ...], tuple[float, ...], list[str]]]:
        """(pruners, sparsities, words) that may share a calibration pass and a command line."""
        apart = [name for name in self.pruner if name in ridges]
        together = tuple(name for name in self.pruner if name not in ridges and not (name == "dense" and self.dense))
        groups = [(together, [])] if together else []
        groups += [((name,), [f"pruner.ridge={ridges[name]:g}"]) for name in apart]
        for (names, words), values in product(groups, self._combinations()):
            if self.fresh_statistics:
                yield from (((name,), (level,), [*words, *values]) for name in names for level in self.sparsity)
            else:
                yield names, self.sparsity, [*words, *values]

    def _combinations(self) -> Iterator[list[str]]:
        grid = self.grid or {}
        for values in product(*grid.values()):
            yield [f"{key}={value}" for key, value in zip(grid, values, strict=True)]


def names() -> list[str]:
    """Every experiment's folder."""
    return sorted(file.parent.name for file in FOLDER.glob("*/sweep.yaml"))


def load(name: str) -> list[Part]:
    """The parts of an experiment.

    Raises:
        UserError: there is no such experiment, or its sweep.yaml is not as it should be.
    """
    if name not in (known := names()):
        raise UserError(f"{name}: there is no such experiment; there are {', '.join(known)}{closest(name, known)}")
    return read(FOLDER / name / "sweep.yaml")


def read(file: Path) -> list[Part]:
    """The parts of a sweep.yaml; UserError as of `parse`, or if it is no text."""
    try:
        return parse(file.read_text(encoding="utf-8"), file)
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no text in UTF-8 ({error.reason})") from None


def parse(text: str, where: Path | str = "sweep.yaml") -> list[Part]:
    """The parts a sweep.yaml describes; UserError names the key that does not belong there, or its value."""
    content = _content(text, where)
    listed = content.get("parts") if isinstance(content, dict) and len(content) == 1 else None
    if not listed or not isinstance(listed, list) or not all(isinstance(given, dict) for given in listed):
        raise UserError(f"{where}: expected one key, parts, with a list of parts")
    return [_part(given, where) for given in listed]


def _content(text: str, where: Path | str) -> Any:
    try:
        return OmegaConf.to_container(OmegaConf.create(text))  # which refuses a key that stands twice
    except (yaml.YAMLError, OmegaConfBaseException, RecursionError, ValueError) as error:
        raise UserError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None


def _part(given: Mapping[str, Any], where: Path | str) -> Part:
    known = columns(Part)
    if unknown := sorted(map(str, set(given) - set(known.kinds))):
        hint = moved(unknown[0]) or closest(unknown[0], sorted(known.kinds))
        raise UserError(f"{where}: unknown key {unknown[0]}{hint}")
    if missing := sorted(known.required - set(given)):
        raise UserError(f"{where}: a part lacks {', '.join(missing)}")
    for key, value in given.items():
        if not fits(known.kinds[key], value, lambda name: None):
            raise UserError(f"{where}: {key}={told(value)}: expected {in_words(known.kinds[key])}")
    frozen: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    try:
        return Part(**frozen)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def there(part: Part) -> list[str]:
    """The experiments of a part that conf/exp has."""
    return [exp for exp in part.exp if exp in choices("exp")]
