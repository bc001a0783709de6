"""Show, compare and convert mask files.

    vlp-bench masks show FILE [--by layer|block|modality]
    vlp-bench masks diff FIRST SECOND [--by layer|block|modality]
    vlp-bench masks convert FILE OUT [--sparsity S --weights FILE] [--form compact] [--inverted]

A file is ours (.safetensors), that of a folder that `vlp-bench prune` wrote, or one that MULTIFLOW's authors released
(.pth, .pt), and so is what convert writes. With --sparsity the mask of another sparsity is derived from the scores that
the run stored beside its mask (scores=true), by the checkpoint that was pruned; nothing is calibrated again, and the
result is the one a new run would find.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlp_bench.runs.terminal.errors import UserError, one_line
from vlp_bench.spelling import count_of

if TYPE_CHECKING:
    from vlp_bench.pruning.solution import Solution

SHIPPED = "pkg://vlp_bench/assets/xvlm_shapes.safetensors"
RELEASED = (".pth", ".pt")
BY = ("layer", "block", "modality")


def parser() -> argparse.ArgumentParser:
    """The command line; nothing heavy is imported to answer --help."""
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser("vlp-bench masks", description=__doc__, formatter_class=form)
    verbs = p.add_subparsers(dest="verb", required=True, metavar="show|diff|convert")
    show = verbs.add_parser("show", help="how the mask came about, and its sparsity")
    show.add_argument("file", type=Path)
    diff = verbs.add_parser("diff", help="intersection over union of two masks")
    diff.add_argument("first", type=Path)
    diff.add_argument("second", type=Path)
    for verb in (show, diff):
        verb.add_argument("--by", choices=BY, default="block", help="a row for each (default: block)")
    convert = verbs.add_parser("convert", help="another form, the released format or back, another sparsity")
    convert.add_argument("file", type=Path)
    convert.add_argument("out", type=Path, help="ends in .safetensors (ours), or in .pth or .pt (the released format)")
    convert.add_argument("--sparsity", type=float, help="derive the mask of this sparsity from the stored scores")
    convert.add_argument("--scores", type=Path, help="file of scores (default: the one beside the mask)")
    convert.add_argument("--weights", default=SHIPPED, help="the checkpoint that was pruned (default: the shipped one)")
    convert.add_argument("--form", choices=("plain", "compact"), default="plain", help="one bit a weight, or less")
    convert.add_argument("--inverted", action="store_true", help="keep what the mask removes")
    return p


def main(argv: list[str] | None = None) -> None:
    """Show, compare or convert."""
    arguments = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(arguments)
    with one_line(arguments):
        {"show": _show, "diff": _diff, "convert": _convert}[args.verb](args)


# show


def _show(args: argparse.Namespace) -> None:
    from rich.markup import escape

    from vlp_bench.runs.pruned_model import load_solution, mask_file
    from vlp_bench.runs.terminal.console import console

    solution = load_solution(args.file)
    for name, text in about(solution, mask_file(args.file)):
        console.print(f"[bold]{name:12}[/] {escape(text)}", soft_wrap=True)
    console.print(_table(solution, args.by, ("weights", "kept", "sparsity"), _sparsities(solution)))


def about(solution: "Solution", file: Path) -> Iterator[tuple[str, str]]:
    """What a mask file says about itself: method, options and seeds, sparsity, hashes, size."""
    from vlp_bench.pruning.masks.bit_packing import entropy
    from vlp_bench.results.pruner_names import named

    report, bits = solution.report, 8 * file.stat().st_size
    asked = (report.get("sparsity") or {}).get("asked")
    yield "method", named(str(report.get("method", "unknown")), report.get("settings"))
    yield "options", ", ".join(f"{key}={value}" for key, value in _options(report.get("settings") or {})) or "none"
    wanted = "" if asked is None else f" (asked for: {100 * asked:g} %)"
    yield "sparsity", f"{100 * solution.sparsity:.4f} %{wanted}, {solution.kept:,} of {solution.total:,} weights kept"
    yield (
        "new weights",
        count_of(len(solution.weights), "layer") if solution.weights else "none, the kept ones are as they were",
    )
    if solution.biases:
        yield "new biases", count_of(len(solution.biases), "layer")
    for what, value in (report.get("hashes") or {}).items():
        yield "hash", f"{what} {value or 'none'}"
    least = entropy(list(solution.masks.values())) / solution.total
    yield (
        "file",
        f"{file.stat().st_size:,} bytes, {bits / solution.total:.3f} bit a weight; entropy by layer {least:.3f}",
    )


def _options(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of a pruner's description that say something, functions by their names."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _options(value, f"{prefix}{key}.")
        elif value is not None and f"{prefix}{key}" != "name":
            name = (prefix + key).replace("._target_", "")
            if name != "_target_":
                yield name, str(value).rpartition(".")[2] if str(value).startswith("vlp_bench.") else str(value)


# Rows by layer, block or modality


def _places(solution: "Solution", by: str) -> dict[str, tuple[str, str]]:
    """The row of every layer, as (modality, name)."""
    layers = solution.report.get("layers", {})
    if not layers:
        return dict.fromkeys(solution.masks, ("", "")) if by != "layer" else {n: ("", n) for n in solution.masks}
    names: dict[str, Callable[[str], str]] = {
        "layer": lambda name: name,
        "block": lambda name: ".".join(layers[name]["block"].split(".")[-2:]),
        "modality": lambda name: "",
    }
    return {name: (layers[name]["modality"], names[by](name)) for name in solution.masks}


def _table(solution: "Solution", by: str, columns: Iterable[str], cells: Callable[[list[str]], list[str]]) -> Any:
    """A row for each layer or block, one for each modality, and one for the model."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for name in ("modality", by if by != "modality" else ""):
        table.add_column(name, overflow="fold")
    for name in columns:
        table.add_column(name, justify="right")
    places = _places(solution, by)
    for modality in dict.fromkeys(modality for modality, _ in places.values()):
        own = [name for name, place in places.items() if place[0] == modality]
        for row in dict.fromkeys(places[name][1] for name in own):
            if row:
                table.add_row(modality, row, *cells([name for name in own if places[name][1] == row]))
        if modality:
            table.add_row(modality, "", *cells(own), style="bold", end_section=True)
    table.add_row("all", "", *cells(list(places)), style="bold")
    return table


def _sparsities(solution: "Solution") -> Callable[[list[str]], list[str]]:
    kept = {name: int(mask.sum()) for name, mask in solution.masks.items()}

    def cells(names: list[str]) -> list[str]:
        total, own = sum(solution.masks[name].numel() for name in names), sum(kept[name] for name in names)
        return [f"{total:,}", f"{own:,}", f"{100 * (1 - own / total):.2f} %"]

    return cells


# diff


def _diff(args: argparse.Namespace) -> None:
    from vlp_bench.pruning.masks.overlap import Overlap, diff
    from vlp_bench.runs.pruned_model import load_solution
    from vlp_bench.runs.terminal.console import console

    first, second = load_solution(args.first), load_solution(args.second)
    found = diff(first.masks, second.masks)
    totals = {name: mask.numel() for name, mask in first.masks.items()}

    def cells(names: list[str]) -> list[str]:
        own, total = sum((found[name] for name in names), Overlap(0, 0, 0)), sum(totals[name] for name in names)
        sparsities = (100 * (1 - kept / total) for kept in (own.kept_first, own.kept_second))
        return [f"{own.iou:.4f}", f"{own.differ:,}", *(f"{sparsity:.2f} %" for sparsity in sparsities)]

    for place, file in (("first", args.first), ("second", args.second)):
        console.print(f"[bold]{place:6}[/] {file}", soft_wrap=True)
    console.print(_table(first, args.by, ("IoU", "differ", "sparsity of first", "of second"), cells))


# convert


def _convert(args: argparse.Namespace) -> None:
    from vlp_bench.runs.terminal.console import console

    if args.out.suffix not in (".safetensors", *RELEASED):
        raise UserError(f"{args.out}: ends in .safetensors (ours), or in .pth or .pt (the released format)")
    from vlp_bench.runs.pruned_model import load_solution

    solution = load_solution(args.file)
    if args.sparsity is not None:
        solution = _at(args.sparsity, solution, args)
    if args.inverted:
        solution = solution.inverted()
    if args.out.suffix in RELEASED:
        from vlp_bench.pruning.released_masks import write

        write(args.out, solution)
    else:
        solution.save(args.out, args.form)
    what = f"sparsity {100 * solution.sparsity:.4f} %, {args.out.stat().st_size:,} bytes"
    console.print(f"{args.out}: {what}", soft_wrap=True, markup=False)


def _at(sparsity: float, solution: "Solution", args: argparse.Namespace) -> "Solution":
    from vlp_bench.models.checkpoints.tensors import tensors_of
    from vlp_bench.models.stacks import parameters_of, with_slices
    from vlp_bench.pruning.another_sparsity import another_sparsity
    from vlp_bench.runs.prune_once import scores_file

    weights = with_slices(tensors_of(args.weights, parameters_of(solution.masks)), solution.masks)
    return another_sparsity(solution, sparsity, args.scores or scores_file(args.file), weights)


if __name__ == "__main__":
    main()
