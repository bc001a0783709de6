"""Which model a weight file is of, what is missing, its hash.

    vlp-bench weights check FILE

FILE is a path, pkg://package/file, or hf:owner/name (a repository of the hub). Nothing in it is executed.
Exit code 0 if it can be loaded as it is, 1 if not, 2 if it cannot be read.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlp_bench.runs.terminal.errors import one_line

if TYPE_CHECKING:
    from vlp_bench.models.checkpoints.identify import Finding

MOST = 20
"""Names listed of each kind."""


def parser() -> argparse.ArgumentParser:
    """The command line; nothing heavy is imported to answer --help."""
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser("vlp-bench weights", description=__doc__, formatter_class=form)
    p.add_argument("verb", choices=["check"])
    p.add_argument("file", help="the weight file")
    return p


def main(argv: list[str] | None = None) -> None:
    """Look, print, and tell by the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(arguments)
    with one_line(arguments):
        from vlp_bench.models.checkpoints.identify import identify

        found = identify(args.file)
    _show(found)
    sys.exit(0 if found.fits else 1)


def _show(found: "Finding") -> None:
    from vlp_bench.runs.terminal.console import console

    def say(what: str, value: object) -> None:
        console.print(f"{what:<11} {value}", markup=False, highlight=False, soft_wrap=True)

    say("file", found.path)
    say("hash", found.hash)
    say("model", f"{found.model}, {found.origin}" if found.fits else f"none; nearest is {found.model}")
    say("tensors", f"{found.tensors:,} with {found.numbers:,} numbers, {', '.join(found.dtypes)} (read as float32)")
    for note in found.notes:
        say("note", note)
    for kind in ("missing", "unexpected", "misshapen", "not_finite"):
        say(kind.replace("_", " "), _listed(getattr(found, kind)))


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "none"
    more = f"\n{'':<12}and {len(names) - MOST} more" if len(names) > MOST else ""
    return f"{len(names)}: " + f"\n{'':<12}".join(["", *names[:MOST]]).lstrip() + more


if __name__ == "__main__":
    main()
