"""From the words of a multirun to its cells, without running any of them."""

from collections.abc import Sequence
from itertools import product

from hydra.core.override_parser.overrides_parser import OverridesParser

from vlp_bench.sweeps.specifications import specifications_of
from vlp_bench.sweeps.sweep import Cell, distinct


def expand(words: Sequence[str]) -> list[list[str]]:
    """['seed=0,1', 'x=2'] -> [['seed=0', 'x=2'], ['seed=1', 'x=2']], as Hydra expands them."""
    axes = []
    for override in OverridesParser.create().parse_overrides(list(words)):
        if override.is_sweep_override():
            key = override.get_key_element()
            axes.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            axes.append([str(override.input_line)])
    return [list(words) for words in product(*axes)]


def cells_of(words: Sequence[str]) -> list[Cell]:
    """The runs that `python -m vlp_bench -m WORDS` would perform, each once.

    Raises:
        UserError: one of them cannot be run.
    """
    runs = expand(words)
    cells = zip(specifications_of(runs), runs, strict=True)
    return distinct([Cell(specification, tuple(own)) for specification, own in cells])
