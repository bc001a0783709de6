"""What there is: pruners, experiments, models, tasks, data.

    vlp-bench list pruners       name, what its scores are made of, passes over the calibration batches, source
    vlp-bench list experiments   name, model, task and data, the files it needs
    vlp-bench list models        name, the files it needs, what it is; so for tasks and data
    vlp-bench list verbs         the verbs themselves, one a line (for shell completion)

What a pruner needs stands in its yaml; one whose yaml lacks it is run on a network of five layers, and watched.
"""

import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from rich.markup import escape
from rich.table import Table

from vlp_bench.runs.terminal.conf import blurb, choices, closest, composed, stated_needs
from vlp_bench.runs.terminal.console import columns as folded
from vlp_bench.runs.terminal.console import console, is_wide, print_help, print_table
from vlp_bench.runs.terminal.errors import UserError, one_line, wants_traceback

Rows = Iterator[tuple[str, ...]]
PATHS = re.compile(r"\$\{paths\.(\w+)\}")
SHIPPED = "nothing"
TEXT = 32  # columns of the terminal that the description takes at least
ANY = "+exp=xvlm_itr"  # an experiment, to see one of its parts exchanged in
OPTIONAL = {"paths.vocab"}  # is looked for in other places as well


def main() -> None:
    """Print one of the lists."""
    words = sys.argv[1:]
    if not words or {"-h", "--help"} & set(words):
        print_help(__doc__)
        return
    with one_line(words, traceback=wants_traceback(words)):
        if words[0] not in KINDS or len(words) > 1:
            raise UserError(f"{' '.join(words)}: list takes one of {', '.join(KINDS)}{closest(words[0], list(KINDS))}")
        columns, rows = KINDS[words[0]]
        _print(columns, rows())


def _print(columns: tuple[str, ...], rows: Rows) -> None:
    if not columns:
        console.print("\n".join(name for (name,) in rows))
        return
    table = Table(box=None, pad_edge=False)
    for name in columns[:-1]:
        table.add_column(name, no_wrap=True)
    table.add_column(columns[-1], min_width=TEXT)
    listed = list(rows)
    for row in listed:
        table.add_row(*map(escape, row))
    if is_wide(table):  # a row is a name, and beside it all the rest
        lines = folded([(name, "; ".join(rest)) for name, *rest in listed], console.width)
        console.print("\n".join(lines), markup=False, soft_wrap=True)
    else:
        print_table(table)


def verbs() -> Rows:
    """Their names."""
    from vlp_bench.__main__ import verbs as listed

    return ((verb,) for verb in listed())


def pruners() -> Rows:
    """Name, what it reads, how often, and the first line of its yaml, which names the paper."""
    for name in choices("pruner"):
        reads, cost = stated_needs(name) or _seen_needs(name)
        yield name, reads, cost, blurb("pruner", name)


def _seen_needs(pruner: str) -> tuple[str, str]:
    from vlp_bench.pruning.catalogue import load
    from vlp_bench.pruning.needs import needs_of

    needs = needs_of(load(pruner))
    return needs.reads, needs.cost


def experiments() -> Rows:
    """Name, parts, needed files, and the first line of its yaml."""
    for name in choices("exp"):
        config = composed([f"+exp={name}"])
        chosen = config.hydra.runtime.choices
        parts = " ".join(str(chosen[part]) for part in ("model", "task", "data"))
        yield name, parts, _files(config.model, config.data), blurb("exp", name)


def _of_group(group: str) -> Callable[[], Rows]:
    def rows() -> Rows:
        for name in choices(group):
            part = composed([ANY, f"{group}={name}"])[group]
            yield name, _files(part), blurb(group, name)

    return rows


def _files(*parts: Any) -> str:
    """The keys without which a configuration cannot be: folders its values are looked for in, and values it lacks."""
    from omegaconf import OmegaConf

    text = "".join(OmegaConf.to_yaml(part) for part in parts)
    folders = {f"paths.{root}" for root in PATHS.findall(text)} - OPTIONAL
    lacking = {part._get_full_key(key) for part in parts for key in part if OmegaConf.is_missing(part, key)}
    return ", ".join(sorted(folders | lacking)) or SHIPPED


KINDS: dict[str, tuple[tuple[str, ...], Callable[[], Rows]]] = {
    "pruners": (("pruner", "needs", "cost", "what it does, and its source"), pruners),
    "experiments": (("+exp=", "model, task, data", "needs", "what it does"), experiments),
    "models": (("model", "needs", "what it is"), _of_group("model")),
    "tasks": (("task", "needs", "what it does"), _of_group("task")),
    "data": (("data", "needs", "what they are"), _of_group("data")),
    "verbs": ((), verbs),
}


if __name__ == "__main__":
    main()
