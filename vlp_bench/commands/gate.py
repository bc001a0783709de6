"""What the shipped model has learnt, against its controls.

    vlp-bench gate [xvlm | blip | FILE]

Masked-word accuracy of each attribute on the test gallery's captions, against the same captions with shuffled images;
recall of the dense model after the demo's fine-tuning, on a 500-image gallery with hard negatives in every attribute.
Exit code 0 if every line passes, 1 if one does not.
"""

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vlp_bench.runs.terminal.errors import one_line
from vlp_bench.runs.terminal.numbers import whole

if TYPE_CHECKING:
    from vlp_bench.data.shapes.probes import Case
    from vlp_bench.models.blip.model import BLIP
    from vlp_bench.models.xvlm.model import XVLM

SHIPPED = "pkg://vlp_bench/assets/{}_shapes.safetensors"
FAMILIES = ("xvlm", "blip")
MARGIN = 30.0
"""Points by which an attribute must beat its control, unless it reaches ENOUGH; no word of this world has a synonym."""
ENOUGH = 80.0
RECALL = {"txt_r1": 90.0, "img_r1": 85.0}
Line = tuple[str, str, str, bool]
"""What is asked, what was found, what is wanted, whether it passes."""


def parser() -> argparse.ArgumentParser:
    """The command line; nothing heavy is imported to answer --help."""
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser("vlp-bench gate", description=__doc__, formatter_class=form)
    p.add_argument(
        "file",
        nargs="?",
        default="xvlm",
        help="checkpoint of a small XVLM or BLIP, or one of those names for the shipped one (default: xvlm)",
    )
    p.add_argument("--cases", type=whole(1), default=400, help="hidden words per attribute")
    p.add_argument("--words-only", action="store_true", help="leave out fine-tuning and retrieval (minutes)")
    return p


def main(argv: list[str] | None = None) -> None:
    """Measure, print, and tell by the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(arguments)
    file = SHIPPED.format(args.file) if args.file in FAMILIES else args.file
    with one_line(arguments):
        model = _model(file)
        lines = list(_words(model, args.cases))
        if not args.words_only:
            lines += _retrieval(file, type(model).__name__.lower())
    _show(lines)
    sys.exit(0 if all(passed for *_, passed in lines) else 1)


def accuracies(model: "XVLM | BLIP", cases: "dict[str, list[Case]]") -> dict[str, tuple[float, float]]:
    """Attribute -> masked-word accuracy, and that of the control with shuffled images; percent."""
    from vlp_bench.data.shapes.phrases import vocabulary
    from vlp_bench.data.shapes.probes import batches
    from vlp_bench.data.text import make_tokenizer
    from vlp_bench.models.blip.model import BLIP
    from vlp_bench.tasks.pretraining import word_accuracy

    tokenizer = make_tokenizer(vocabulary(), sep=isinstance(model, BLIP))
    found = {}
    for attribute, listed in cases.items():
        probes = batches(listed, tokenizer)
        found[attribute] = (word_accuracy(model, probes), word_accuracy(model, probes, shuffled=True))
    return found


def _model(file: str) -> "XVLM | BLIP":
    from vlp_bench.models.blip.model import BLIP
    from vlp_bench.models.checkpoints.read_write import load_model
    from vlp_bench.models.xvlm.model import XVLM

    model = load_model(file, attention="eager").eval()
    if not isinstance(model, XVLM | BLIP):
        raise ValueError(f"{file} holds a {type(model).__name__}; this gate is for the small XVLM and BLIP")
    return model


def _words(model: "XVLM | BLIP", most: int) -> Iterator[Line]:
    from vlp_bench.data.shapes.probes import cases
    from vlp_bench.data.shapes.world import World

    hidden = cases(World(0).told_apart("itr_test", 500), most)
    for attribute, (own, control) in accuracies(model, hidden).items():
        found = f"{own:5.1f} %  control {control:5.1f} %  ({len(hidden[attribute])} words)"
        passed = own - control >= MARGIN or own >= ENOUGH
        yield f"hidden word: {attribute}", found, f"control + {MARGIN:g}, or {ENOUGH:g} %", passed


def _retrieval(file: str, family: str) -> Iterator[Line]:
    """The dense run of the demo; computed now unless its rows are stored."""
    from vlp_bench.results.store import Store
    from vlp_bench.results.tables import test_values
    from vlp_bench.runs.run import run
    from vlp_bench.sweeps.grid import Grid
    from vlp_bench.sweeps.specifications import specifications

    overrides = (f"+exp={family}_itr", *(() if file == SHIPPED.format(family) else (f"model.weights={file}",)))
    (cell,) = specifications(Grid(("dense",), (0.0,), (0,), overrides=overrides))
    run(cell)
    values = test_values(Store(cell.out / "runs").query(run=cell.run))
    for metric, wanted in RECALL.items():
        name = {"txt_r1": "text R@1", "img_r1": "image R@1"}[metric]
        yield f"dense, fine-tuned: {name} of 500", f"{values[metric]:5.1f} %", f"{wanted:g} %", values[metric] >= wanted


def _show(lines: list[Line]) -> None:
    from rich.table import Table

    from vlp_bench.runs.terminal.console import console

    table = Table("asked", "found", "wanted", "", title="Acceptance gate of the embedded world's checkpoint")
    for asked, found, wanted, passed in lines:
        table.add_row(asked, found, wanted, "[green]pass[/]" if passed else "[red]fail[/]")
    console.print(table)


if __name__ == "__main__":
    main()
