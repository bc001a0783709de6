"""The cells of a comparison as words of a command line: pruners × sparsities × seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlp_bench.runs.terminal.errors import UserError

PRUNERS = ("dense", "random", "omp", "lamp", "snip", "multiflow")
SPARSITIES = (0.63, 0.75, 0.9)
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Grid:
    """Which cells are computed, with what else on the command line, by how many processes."""

    pruners: tuple[str, ...] = PRUNERS
    sparsities: tuple[float, ...] = SPARSITIES
    seeds: tuple[int, ...] = SEEDS
    workers: int = 2
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UserError(f"workers={self.workers}: at least one process must do the work")
        for name in ("pruners", "sparsities", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise UserError(f"{name} to compare: give at least one and each once, got {values}")

    @classmethod
    def parse(cls, words: Sequence[str]) -> "Grid":
        """The grid of a command line: pruner=, sparsity= and seed= take lists, everything else is an override."""
        own: dict[str, str] = {}
        for key, _, value in (word.partition("=") for word in words):
            if key in own:
                raise UserError(f"{key}={own[key]} {key}={value}: give {key} once, with commas between its values")
            if key in _OWN:
                own[key] = value
        rest = tuple(word for word in words if word.partition("=")[0] not in _OWN)
        return cls(**{_OWN[key][0]: parsed(key, value) for key, value in own.items()}, overrides=rest)

    def cells(self) -> list[tuple[str, float, int]]:
        """(pruner, sparsity, seed) of every cell, seed by seed; dense has no sparsity."""
        levels = {pruner: (0.0,) if pruner == "dense" else self.sparsities for pruner in self.pruners}
        return [(pruner, level, seed) for seed in self.seeds for pruner in self.pruners for level in levels[pruner]]


_OWN = {
    "pruner": ("pruners", str),
    "sparsity": ("sparsities", float),
    "seed": ("seeds", int),
    "workers": ("workers", int),
}


def parsed(key: str, value: str) -> Any:
    kind = _OWN[key][1]
    try:
        values = tuple(kind(item) for item in value.strip("[]").split(","))
    except ValueError:
        raise UserError(f"{key}={value}: expected {kind.__name__} values separated by commas") from None
    if key != "workers":
        return values
    if len(values) != 1 or values[0] < 1:
        raise UserError(f"workers={value}: expected one number of processes, at least 1")
    return values[0]


def level(sparsity: float) -> str:
    """A sparsity as a word says it: short where that is the same number."""
    short = f"{sparsity:g}"
    return short if float(short) == sparsity else repr(sparsity)
