"""Pruners at several sparsities over seeds: a table and a plot.

Masks come from one calibration pass; the table has mean ± std.

    vlp-bench compare +exp=xvlm_itr pruner=dense,omp,multiflow sparsity=0.63,0.9 seed=0,1,2 workers=2

The cells are the runs of `vlp-bench run` themselves: what is stored is not computed again, here or there. Of a row of
ECoFLaP's tables whose model is a folder (+exp=ecoflap_llama, ...) the words are those of `vlp-bench prune`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlp_bench.runs.own_model.evaluation_request import is_preset
from vlp_bench.runs.terminal.console import console, print_help, warn
from vlp_bench.runs.terminal.errors import MISTAKE, one_line, wants_traceback
from vlp_bench.runs.terminal.key_value import with_words
from vlp_bench.sweeps.announcement import announcement
from vlp_bench.sweeps.grid import Grid

if TYPE_CHECKING:
    from vlp_bench.runs.specification import Specification


def main() -> None:
    """Compute the cells that are missing, then show the table and draw the plot."""
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        print_help(__doc__)
        return
    if is_preset(words):
        with_words(_compare_folders, __doc__)
        return
    with one_line(words, traceback=wants_traceback(words)):
        compare(Grid.parse(words))


def _compare_folders(words: list[str]) -> None:
    from vlp_bench.runs.own_model.several import compare

    compare(words, console)


def compare(grid: Grid) -> Path:
    """Perform the comparison and return the folder of its table and plots.

    Raises:
        UserError: a cell that cannot run. SystemExit(2): some cells failed; the others are stored and shown.
    """
    from vlp_bench.sweeps.specifications import missing, specifications

    cells = specifications(grid)
    todo = missing(cells)
    console.print(announcement(cells, todo, grid.workers), soft_wrap=True)
    failures = _computed(todo, grid.workers) if todo else {}
    folder = _show(grid, cells)
    for name, reason in failures.items():
        console.print(f"[red]failed:[/] {name}: ", end="")
        console.print(reason, markup=False, soft_wrap=True)
    if failures:
        raise SystemExit(MISTAKE)
    return folder


def _computed(cells: Sequence["Specification"], workers: int) -> dict[str, str]:
    from vlp_bench.sweeps.comparison import compute  # with torch: not needed where all is stored

    return compute(cells, workers)


def _show(grid: Grid, cells: Sequence["Specification"]) -> Path:
    """Print a table per metric; write them and the plot to outputs/compare/."""
    from vlp_bench.results import compared
    from vlp_bench.results.pruner_names import named
    from vlp_bench.results.store import Store, matching
    from vlp_bench.runs.object_cache import task_class
    from vlp_bench.runs.specification import digest, own_data

    first, runs = cells[0], {cell.run for cell in cells}
    experiment, benchmark = first.config["experiment"], first.benchmark
    store = Store(first.out / "runs")
    frame = store.query()
    warn(store.problems)
    computed, headlines = set(matching(frame, run=runs, split="test")["metric"]), task_class(first.config).HEADLINES
    metrics = [metric for metric in headlines if metric in computed] or headlines[:1]
    names = {c.choices["pruner"]: named(c.choices["pruner"], c.config["pruner"]) for c in cells}
    own = matching(frame, run=runs)
    own = own.assign(pruner=own["pruner"].replace(names))
    title = compared.title_of(f"{experiment}, {own_data(first.config) or f'benchmark={benchmark}'}", grid.seeds)
    folder = first.out / "compare" / f"{experiment}-{benchmark}-{digest(sorted(runs))}"
    pruners, rehearsed = [names[pruner] for pruner in grid.pruners], first.config["rehearse"]
    compared.show(console, own, pruners, grid.sparsities, metrics, title, folder, rehearsed=rehearsed)
    return folder


if __name__ == "__main__":
    main()
