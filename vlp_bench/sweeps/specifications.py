"""The specifications of many runs: what differs in sparsity and seed alone is composed once, which takes longest."""

from collections.abc import Iterable, Iterator, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, read_write

from vlp_bench.results.store import Store
from vlp_bench.runs.specification import Specification, register, specify
from vlp_bench.runs.terminal.conf import composed
from vlp_bench.sweeps.grid import Grid, level

FILLED_IN = ("sparsity", "seed")  # numbers that no defaults list asks for


def specifications(grid: Grid) -> list[Specification]:
    """The runs of a grid, as `python -m vlp_bench` would compose them.

    Raises:
        UserError: a run that cannot be; nothing is computed then.
    """
    return list(
        specifications_of(
            [*grid.overrides, f"pruner={pruner}", f"sparsity={level(sparsity)}", f"seed={seed}"]
            for pruner, sparsity, seed in grid.cells()
        )
    )


def missing(cells: Iterable[Specification]) -> list[Specification]:
    """The cells without a stored result (all of them under force=true)."""
    return [c for c in cells if c.config["force"] or not Store(c.out / "runs").done(c.run, c.name)]


def specifications_of(runs: Iterable[Sequence[str]]) -> Iterator[Specification]:
    """Of every run what `vlp-bench run WORDS` would make of its words.

    Raises:
        UserError: a run that cannot be.
    """
    register()
    found: dict[tuple[str, ...], DictConfig] = {}
    for words in runs:
        numbers = _numbers(words)
        rest = tuple(word for word in words if word not in numbers)
        key = (*rest, *(name for name, _ in numbers.values()))
        if key not in found:
            found[key] = composed(words)
        config = found[key]
        _fill_in(config, numbers)
        yield specify(config, config.hydra)


def _numbers(words: Sequence[str]) -> dict[str, tuple[str, int | float]]:
    """Word -> key and value, of the words that set a number which may be filled in."""
    given = [word for word in words if word.partition("=")[0] in FILLED_IN]
    overrides = zip(given, OverridesParser.create().parse_overrides(given), strict=True)
    values = ((word, override.get_key_element(), override.value()) for word, override in overrides)
    return {word: (key, value) for word, key, value in values if isinstance(value, int | float)}


def _fill_in(config: DictConfig, numbers: dict[str, tuple[str, int | float]]) -> None:
    """Puts numbers, and the words that say them, in place of those it was composed with."""
    said = {key: word for word, (key, _) in numbers.items()}
    for key, value in numbers.values():
        config[key] = value
    overrides = config.hydra.overrides
    with read_write(overrides):
        overrides.task = [said.get(word.partition("=")[0], word) for word in overrides.task]
