"""Runs of a sweep: done, running, interrupted, missing, failed.

    vlp-bench status +exp=xvlm_itr pruner=lamp,multiflow sparsity=0.63,0.9 seed=0,1,2
    vlp-bench status paths.out=outputs

The words are those of the multirun, without -m. Without an experiment it shows every run that has a folder. Exit code:
0 all are done, 1 some have failed, 4 none has failed but some are not done yet, 2 the words are wrong.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from vlp_bench.results.store import Store
from vlp_bench.runs.terminal.console import console, print_help, print_table
from vlp_bench.runs.terminal.errors import FAILED, UserError, one_line, wants_traceback
from vlp_bench.spelling import count_of
from vlp_bench.sweeps.states import STYLES, State, counted, more_of, state_of

UNFINISHED = 4
Run = tuple[Path, str]  # folder and identity


def main() -> None:
    """Show the states and leave with the exit code that sums them up."""
    words = [word for word in sys.argv[1:] if word not in ("-m", "--multirun")]
    if {"-h", "--help"} & set(words):
        print_help(__doc__)
        return
    with one_line(words, traceback=wants_traceback(words)):
        code = show(runs_of(words))
    sys.exit(code)


def runs_of(words: Sequence[str]) -> list[Run]:
    """The runs that the words stand for; those on disk where no experiment is named."""
    if any(word.startswith("+exp=") for word in words):
        from vlp_bench.sweeps.expand import cells_of

        return [(cell.folder, cell.specification.run) for cell in cells_of(words)]
    others = [word for word in words if not word.startswith("paths.out=")]
    if others:
        hint = f"; did you mean paths.{others[0]}?" if others[0].startswith("out=") else ""
        raise UserError(f"{others[0]}: say which experiment, +exp=NAME, or nothing but paths.out=FOLDER{hint}")
    out = next((word.partition("=")[2] for word in words), "outputs")
    folders = sorted(folder for folder in (Path(out) / "runs").glob("*-*") if folder.is_dir())
    if not folders:
        raise UserError(f"{out}: there are no runs in its folder runs; choose another with paths.out=FOLDER")
    return [(folder, folder.name.rpartition("-")[2]) for folder in folders]


def show(runs: Sequence[Run]) -> int:
    """Print a table and what is unreadable; the exit code that sums it up."""
    states = {folder: state_of(folder, run) for folder, run in runs}
    table = Table(title=f"{count_of(len(states), 'run')}: {counted(states.values())}")
    for name in ("run", "state", "how far, or why not"):
        table.add_column(name, no_wrap=name == "run")
    for folder, run in runs:
        state = states[folder]
        table.add_row(folder.name, f"[{STYLES[state]}]{state}[/]", escape(more_of(folder, run, state)))
    print_table(table)
    for problem in _problems([folder for folder, _ in runs]):
        console.print(f"[yellow]{escape(problem)}[/]", soft_wrap=True)
    if State.FAILED in states.values():
        return FAILED
    return 0 if set(states.values()) == {State.DONE} else UNFINISHED


def _problems(folders: Sequence[Path]) -> list[str]:
    """Lines of the stored results that could not be read."""
    store = Store(folders[0].parent)
    for folder in folders:
        list(store.rows(folder.name))
    return store.problems


if __name__ == "__main__":
    main()
