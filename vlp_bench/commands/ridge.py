"""Choose the ridge of CHITA and CHITA++ as the paper did.

Nine values, 63 %, one epoch of retrieval, best average R@1.

    vlp-bench ridge +exp=xvlm_itr pruner=chita            # nine short runs, resumable
    vlp-bench ridge +exp=xvlm_itr pruner=chita benchmark=paper paths.data=DIR paths.weights=DIR

The choice is stored in outputs/ridge and used by `commands.experiment` for every task of the model (MULTIFLOW,
supplement, Table 10). A single run takes the value of its yaml, 0.1, or pruner.ridge=VALUE.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlp_bench.runs.terminal.console import console, print_help
from vlp_bench.runs.terminal.errors import UserError, one_line, wants_traceback
from vlp_bench.sweeps.grid import Grid, parsed
from vlp_bench.sweeps.plans import RIDGE_PRUNERS

if TYPE_CHECKING:
    from vlp_bench.runs.specification import Specification

VALUES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)
SPARSITY, SEED = 0.63, 0
METRICS = ("txt_r1", "img_r1")  # their mean decides


@dataclass(frozen=True)
class Choice:
    """The ridge with the best average R@1, and that average of every value that did not fail. `runs` names the runs."""

    pruner: str
    ridge: float
    average_r1: dict[str, float]
    runs: tuple[str, ...]


def main() -> None:
    """Choose, or show what was chosen."""
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        print_help(__doc__)
        return
    with one_line(words, traceback=wants_traceback(words)):
        given = {word.partition("=")[0]: word.partition("=")[2] for word in words}
        for key in sorted({"sparsity", "seed"} & set(given)):
            raise UserError(f"{key}={given[key]}: the ridge is chosen at the paper's sparsity and seed; leave it out")
        pruner, workers = given.get("pruner", "chita"), parsed("workers", given.get("workers", "2"))
        rest = [word for word in words if word.partition("=")[0] not in ("pruner", "workers")]
        choice = choose(pruner, rest, workers)
        for value, average in choice.average_r1.items():
            mark = " <- chosen" if float(value) == choice.ridge else ""
            console.print(f"ridge {value:>6}: average R@1 {average:.2f}{mark}")


def choose(pruner: str, words: Sequence[str], workers: int = 2) -> Choice:
    """The stored choice, or a new one after the runs it takes.

    Raises:
        UserError: the pruner has no ridge, or no value led to a finite result.
    """
    from vlp_bench.sweeps.comparison import compute
    from vlp_bench.sweeps.specifications import missing

    cells = _cells(pruner, words, workers)
    file = _file(pruner, list(cells.values()))
    if file.is_file():
        return read(file)
    if todo := missing(cells.values()):
        compute(todo, workers)
    choice = best(pruner, {value: _average(cell) for value, cell in cells.items()}, [c.run for c in cells.values()])
    _write(file, choice)
    return choice


def _cells(pruner: str, words: Sequence[str], workers: int) -> "dict[float, Specification]":
    from vlp_bench.sweeps.specifications import specifications

    if pruner not in RIDGE_PRUNERS:
        raise UserError(f"pruner={pruner}: a ridge belongs to {' and '.join(RIDGE_PRUNERS)}")
    common = [*words, "recipe.epochs=1"]
    grids = {v: Grid((pruner,), (SPARSITY,), (SEED,), workers, (*common, f"pruner.ridge={v:g}")) for v in VALUES}
    return {value: specifications(grid)[0] for value, grid in grids.items()}


def _average(cell: "Specification") -> float | None:
    """Mean of text and image R@1; None if the run failed."""
    from vlp_bench.results.store import Store

    rows = {row.metric: row for row in Store(cell.out / "runs").last(cell.run, cell.name) if row.split == "test"}
    if any(metric not in rows or rows[metric].status != "ok" for metric in METRICS):
        return None
    return sum(rows[metric].value for metric in METRICS) / len(METRICS)


def best(pruner: str, averages: dict[float, float | None], runs: Sequence[str]) -> Choice:
    """The value with the largest average; of equals the larger, which moves the weights less."""
    found = {value: average for value, average in averages.items() if average is not None}
    if not found:
        raise UserError(f"{pruner}: no ridge led to a result; see the ERR rows of its runs")
    ridge = max(found, key=lambda value: (found[value], value))
    return Choice(pruner, ridge, {f"{value:g}": average for value, average in found.items()}, tuple(runs))


def _file(pruner: str, cells: "Sequence[Specification]") -> Path:
    from vlp_bench.runs.specification import digest

    first = cells[0]
    name = f"{first.config['experiment']}-{first.benchmark}-{pruner}"
    return first.out / "ridge" / f"{name}-{digest(sorted(cell.run for cell in cells))}.json"


def read(file: Path) -> Choice:
    """A stored choice; UserError if the file is broken."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return Choice(**(content | {"runs": tuple(content["runs"])}))
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file} is no stored choice of a ridge ({error}); delete it and choose again") from None


def _write(file: Path, choice: Choice) -> None:
    from vlp_bench.pruning.masks.safetensors_files import write_whole

    write_whole(file, f"{json.dumps(asdict(choice), indent=1)}\n".encode())


if __name__ == "__main__":
    main()
