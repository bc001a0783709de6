"""The processor's rows of whole calls, each with its goal, beside the rows stored of the same machine and model.

    python benchmarks/bench.py [--full] [--keep] [NAME ...]
    python benchmarks/bench.py --write      # the stored rows into docs/costs.md, nothing measured

A row is a line of JSON of `whole_calls.py` or `block_calls.py`, measured on one thread: at 46 M weights or with an XVLM
of the papers' width and a quarter of their depth, in some ten minutes; with `--full` at the size of the goals, 184 M
weights and a whole XVLM, where the baselines take most of half an hour and up to 10 GiB. `demo` is a run of the small
XVLM in an empty folder, on all cores, by the clock. `--keep` adds what was measured to the stored rows,
`benchmarks/results/whole_calls.jsonl`. Ratios are compared, where a row has one, for they depend less on what else the
machine does; else seconds. Within a tenth a row is "as stored". Beside each row stands whether it meets its goal, and
how long measuring it took. No baseline here needs a package that vlp_bench does not install.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlp_bench.results.tables import markdown

Row = Mapping[str, Any]
HERE = Path(__file__).resolve().parent
STORED = HERE / "results" / "whole_calls.jsonl"
PAGE = HERE.parent / "docs" / "costs.md"
BEGIN, END = "<!-- whole calls: written by `python benchmarks/bench.py --write` -->\n", "<!-- end of whole calls -->\n"
QUICK = ("46 M weights", "XVLM small")  # models of rows that are quick to measure
CLOSE = 0.1
ONCE = ("lamp3_first", "omp", "lamp3")  # whose baselines take long
BLOCKS = ("block_wanda", "block_sparsegpt", "passes")
CALLS = (
    "omp3",
    "omp3_first",
    "omp",
    "lamp3",
    "lamp3_first",
    "snip",
    "snip_first",
    "multiflow2",
    "multiflow16",
    "multiflow2_bf16",
    "multiflow16_bf16",
)
ONLY_FULL = ("multiflow2_bf16", "multiflow16_bf16")  # without names: `make bench` has ten minutes
NAMES = ("demo", *CALLS, *BLOCKS, "thresholds")
DEMO = ("run", "+exp=xvlm_itr", "benchmark=mini", "pruner=multiflow", "sparsity=0.9")
COLUMNS = ("row", "seconds", "GiB", "ratio", "goal", "stored", "", "against")
MEMORY = 1.5  # times a block's baseline, at most
TITLES = {"whole call": "Whole calls", "kernel": "Parts of a call"}


def key(row: Row) -> tuple[Any, ...]:
    """What must be equal in two rows that are compared; rows stored before 0.16 don't tell of AMX."""
    return *(row[name] for name in ("row", "model", "threads")), row["machine"].removesuffix(", AMX")


def read(file: Path) -> list[Row]:
    """The stored rows, oldest first; ValueError for a line that is none."""
    if not file.is_file():
        return []
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            key(row)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}, line {number} is no row of whole_calls.py ({error}); delete it") from None
        rows.append(row)
    return rows


def verdict(row: Row, before: Row | None) -> str:
    """How a row stands to the stored one, in a word."""
    if before is None:
        return "new"
    if row["ratio"] is not None and before["ratio"] is not None:
        change = row["ratio"] / before["ratio"]
    else:
        change = before["seconds"]["ours"] / row["seconds"]["ours"]
    if row["ratio"] is not None and row.get("at_most"):
        change = 1 / change
    return "faster" if change > 1 + CLOSE else "slower" if change < 1 / (1 + CLOSE) else "as stored"


def goal(row: Row) -> str:
    """What is asked, and whether it is there: at least a ratio, at most one, or at most so many seconds."""
    reached = row["seconds"]["ours"] if row["ratio"] is None else row["ratio"]
    at_most = row["ratio"] is None or row.get("at_most", False)
    met = reached <= row["goal"] if at_most else reached >= row["goal"]
    if (memory := row.get("memory_ratio")) is not None:
        met = met and memory <= MEMORY
    return f"{'<=' if at_most else '>='} {row['goal']:g}{' s' * (row['ratio'] is None)} {'met' if met else 'missed'}"


def table(rows: Iterable[Row], stored: Iterable[Row]) -> str:
    """Whole calls, then parts of one, each beside the last stored row of its kind."""
    before = {key(row): row for row in stored}
    listed = list(rows)
    parts = []
    for kind, title in TITLES.items():
        lines = [_cells(row, before.get(key(row))) for row in listed if row["table"] == kind]
        if lines:
            parts.append(f"{title}\n{_aligned([COLUMNS, *lines])}")
    return "\n\n".join(parts)


def _cells(row: Row, before: Row | None) -> tuple[str, ...]:
    told = "" if before is None else _number(before["ratio"], before)
    peak = row["peak_gib"].get("ours")
    against = f"{row['baseline']}: {row['seconds'].get(row['baseline'], 0):.2f} s" if row["baseline"] else ""
    if row.get("memory_ratio") is not None:
        against += f", memory {row['memory_ratio']:.2f} times (at most {MEMORY:g})"
    if row.get("floor") is not None:
        against += f", forward passes alone {row['floor']:.2f} x"
    return (
        f"{row['work']}, {row['model']}",
        f"{row['seconds']['ours']:.2f}",
        "" if peak is None else f"{peak:.2f}",
        _number(row["ratio"], row) if row["ratio"] is not None else "",
        goal(row),
        told,
        verdict(row, before),
        against,
    )


def _number(ratio: float | None, row: Row) -> str:
    return f"{row['seconds']['ours']:.2f} s" if ratio is None else f"{ratio:.2f} x"


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def page(stored: Iterable[Row], text: str) -> str:
    """The page with the last stored whole call of each kind, at the size of the goals, between its marks."""
    last = {key(row): row for row in stored if row["table"] == "whole call" and row["model"] not in QUICK}
    rows = sorted(last.values(), key=lambda row: NAMES.index(row["row"]))
    heads = ["whole call", "against", "seconds", "against it", "ratio", "asked", "GiB", "and it"]
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + markdown([heads, *map(_written, rows)]) + END + rest.partition(END)[2]


def _written(row: Row) -> list[str]:
    other = row["baseline"]
    floor = f" (forward passes alone: {row['floor']:.2f})" if row.get("floor") is not None else ""
    seconds = [f"{row['seconds'][side]:.2f}" if side else "" for side in ("ours", other)]
    peaks = [f"{row['peak_gib'][side]:.2f}" if side in row["peak_gib"] else "" for side in ("ours", other)]
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}{floor}"
    return [f"{row['work']}, {row['model']}", other, *seconds, ratio, goal(row), *peaks]


def measured(name: str, file: Path, full: bool = False) -> Row:
    """One row, by a process of its own."""
    rounds = "1" if name in ONCE else "3"
    if name in BLOCKS:
        script = [sys.executable, "-m", "benchmarks.block_calls", name]
    else:
        size = ["--weights", "184", "--size", "paper"] if full else ["--weights", "46", "--size", "small"]
        script = [sys.executable, str(HERE / "whole_calls.py"), name, *size]
    given = ["--rounds", rounds, "--json", str(file)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*script, *given], check=True, cwd=HERE.parent, env=environment, stdout=subprocess.DEVNULL)
    return json.loads(file.read_text(encoding="utf-8").splitlines()[-1])


def demo(like: Row) -> Row:
    """A run of the small XVLM; machine, versions and commit are those of another row."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        program = [sys.executable, "-m", "vlp_bench", *DEMO]
        paths = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": paths}
        subprocess.run(program, check=True, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
        spent = time.perf_counter() - began
    own = {"row": "demo", "work": "a run at 90 %", "model": "XVLM mini", "threads": os.cpu_count()}
    none = {"baseline": "", "ratio": None, "goal": 30, "peak_gib": {}, "rounds": 1, "masks_differ": 0}
    return dict(like) | own | none | {"table": "whole call", "seconds": {"ours": round(spent, 2)}}


def measure(names: Sequence[str], file: Path, full: bool = False) -> Iterator[Row]:
    """Every row as soon as it is there; the demo last, for it is described by the others."""
    last: Row | None = None
    for name in sorted(names, key=lambda name: name == "demo"):
        print(f"  measuring {name} ...", end="", flush=True)
        began = time.perf_counter()
        last = demo(last or measured("thresholds", file)) if name == "demo" else measured(name, file, full)
        print(f" {time.perf_counter() - began:.0f} s", flush=True)
        yield last


def main() -> None:
    """Measure, compare, and keep where that is asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"rows: {', '.join(NAMES)}; none: all (in bf16 with --full alone)"
    )
    parser.add_argument("--full", action="store_true", help="at the size of the goals")
    parser.add_argument("--keep", action="store_true", help="add the rows to those that are stored")
    parser.add_argument("--write", action="store_true", help="write the stored rows into docs/costs.md, and no more")
    args = parser.parse_args()
    if args.write:
        PAGE.write_text(page(read(STORED), PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        return
    if unknown := set(args.names) - set(NAMES):
        parser.error(f"there is no row {min(unknown)!r}: use {', '.join(NAMES)}")
    stored = read(STORED)
    with tempfile.TemporaryDirectory() as folder:
        default = NAMES if args.full else [name for name in NAMES if name not in ONLY_FULL]
        rows = list(measure(args.names or default, Path(folder) / "rows.jsonl", args.full))
    print(f"\n{table(rows, stored)}\n\n{rows[0]['machine']}, torch {rows[0]['torch']}, load {os.getloadavg()[0]:.1f}")
    if args.keep:
        STORED.parent.mkdir(exist_ok=True)
        with STORED.open("a", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(row)}\n" for row in rows)


if __name__ == "__main__":
    main()
