"""The command line of programs that print a row for each whole call they compare."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch

from vlp_bench.runs.provenance import processor


def command_line(doc: str | None, rows: Collection[str]) -> argparse.ArgumentParser:
    """Which rows, how often, on how many threads; `--alone` is what such a program calls itself with."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"rows: {', '.join(rows)}; none: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where rows are appended, a line of JSON for each")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    return parser


def perform(
    args: argparse.Namespace,
    subject: str,
    rows: Collection[str],
    measure: Callable[[str, argparse.Namespace], Any],
    compare: Callable[[str, argparse.Namespace], dict[str, Any]],
    say: Callable[[dict[str, Any]], str],
) -> None:
    """Print every row that was asked for as soon as it is known; in a process of its own, one side's measurement."""
    torch.set_num_threads(args.threads)
    if args.alone:
        print(json.dumps(measure(args.alone, args)))
        return
    print(f"{subject}, {args.threads} thread{'s' if args.threads > 1 else ''}, {processor()}")
    for name in args.names or rows:
        row = compare(name, args)
        print(say(row), flush=True)
        if args.json:
            with args.json.open("a") as file:
                file.write(json.dumps(row) + "\n")
