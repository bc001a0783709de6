"""A pruned model for others; whether it is smaller and faster.

    vlp-bench export write SOURCE OUT --as dense|packed|huggingface|smaller [--weights FILE]
    vlp-bench export report SOURCE [--weights FILE] [--tokens 1,30,197] [--batches 1,8] [--device cpu]

SOURCE is a mask file, applied to --weights (the checkpoint that was pruned), a folder that `vlp-bench prune` wrote, or
that of a finished run, whose fine-tuned weights, metrics and provenance are taken. `dense` writes every zero, `packed`
stores about what the mask and the kept weights need and loads back bit for bit, `huggingface` is a folder with
config.json, model.safetensors and a card. `smaller` cuts out attention heads and feed-forward neurons that are gone as
a whole (pruner=flap, wanda_sp): a dense model, as a file of ours (OUT.safetensors) or a folder. `report` counts bytes
in every form of storage, measures dense and sparse layers on the device, and, of a model of ours that gets smaller, a
whole forward pass before and after.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlp_bench.commands.masks import SHIPPED
from vlp_bench.runs.terminal.errors import UserError, one_line
from vlp_bench.runs.terminal.numbers import whole
from vlp_bench.spelling import count_of

if TYPE_CHECKING:
    from torch import nn

    from vlp_bench.runs.pruned_model import Source

FORMS = ("dense", "packed", "huggingface", "smaller")
TEXT = 30  # tokens of a caption in the forward passes of a report


def parser() -> argparse.ArgumentParser:
    """The command line; nothing heavy is imported to answer --help."""
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser("vlp-bench export", description=__doc__, formatter_class=form)
    verbs = p.add_subparsers(dest="verb", required=True, metavar="write|report")
    write = verbs.add_parser("write", help="a checkpoint or a folder")
    report = verbs.add_parser("report", help="bytes and milliseconds, dense and sparse")
    for verb in (write, report):
        verb.add_argument("source", type=Path, help="a mask file, a pruned folder, or that of a run")
        verb.add_argument("--weights", help="the checkpoint that was pruned (default: the shipped one; a run's own)")
    write.add_argument("out", type=Path, help="a file (.safetensors), or a folder for huggingface")
    write.add_argument("--as", dest="form", choices=FORMS, required=True)
    report.add_argument("--tokens", default="1,30,197", help="rows of the layers' input to measure with")
    report.add_argument("--batches", default="1,8", help="rows of the whole forward passes to measure with")
    report.add_argument("--device", help="cpu or cuda (default: a GPU if there is one)")
    report.add_argument("--rounds", type=whole(1), default=5, help="measurements of each; their median counts")
    report.add_argument("--json", type=Path, help="write the numbers to this file too")
    return p


def main(argv: list[str] | None = None) -> None:
    """Write a model, or report on it."""
    arguments = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(arguments)
    with one_line(arguments):
        {"write": _write, "report": _report}[args.verb](args)


# write


def _write(args: argparse.Namespace) -> None:
    from vlp_bench.runs.pruned_model import source
    from vlp_bench.runs.terminal.console import console

    found = source(args.source, args.weights, SHIPPED)
    _check_out(args.source, found, args.out)
    {"dense": _dense, "packed": _packed, "huggingface": _folder, "smaller": _smaller}[args.form](found, args.out)
    files = sorted(args.out.iterdir()) if args.out.is_dir() else [args.out]
    for file in files:
        console.print(f"{file}: {file.stat().st_size:,} bytes", soft_wrap=True, markup=False)


def _check_out(place: Path, found: "Source", out: Path) -> None:
    """UserError where what is written would take the place of what was read."""
    from vlp_bench.models.checkpoints.hub import weight_files
    from vlp_bench.models.checkpoints.locations import weight_file
    from vlp_bench.runs.pruned_model import BEST, ROWS, mask_file

    read = (place, mask_file(place), place / BEST, place / ROWS, weight_file(found.weights), found.folder)
    if out.resolve() in {own.resolve() for own in (*read, *weight_files(found.folder))}:
        raise UserError(f"{out} is what is exported, and would be overwritten: give another name")


def _about(found: "Source") -> dict[str, Any]:
    report = {key: value for key, value in found.solution.report.items() if key != "layers"}
    return {"pruning": report, "metrics": found.metrics, "provenance": found.provenance}


def _dense(found: "Source", out: Path) -> None:
    """A model of ours with its configuration in the header, as `checkpoints` reads it; else a plain state dict.

    Of a tensor that the state dict has under several names the file holds the first, as those of transformers do.
    """
    from vlp_bench.models.checkpoints.read_write import save_model
    from vlp_bench.pruning.masks.packed_checkpoint import without_aliases
    from vlp_bench.pruning.masks.safetensors_files import write_tensors
    from vlp_bench.runs.pruned_model import model_of

    model = model_of(found)
    if model is not None:
        save_model(out, model, _about(found))
    else:
        own, _ = without_aliases(found.state)
        write_tensors(out, own, {"format": "pt", "vlp_bench": json.dumps(_about(found))})


def _packed(found: "Source", out: Path) -> None:
    from vlp_bench.pruning.masks.packed_checkpoint import write

    write(out, found.state, _about(found))


def _folder(found: "Source", out: Path) -> None:
    """Ours by its configuration; another's beside whose weights a config.json lies, with all that lies there."""
    from vlp_bench.models.checkpoints.pretrained import (
        CARD,
        CONFIG,
        MASK,
        WEIGHTS,
        from_pretrained,
        save_pretrained,
    )
    from vlp_bench.pruning.masks.safetensors_files import write_tensors, write_whole
    from vlp_bench.results.card import model_card
    from vlp_bench.runs.own_model.writing import CONFIGURATION, copy_beside
    from vlp_bench.runs.pruned_model import model_of

    card = model_card(found.name, found.solution, found.metrics, found.provenance)
    if (model := model_of(found)) is not None:
        save_pretrained(model, out, card)
        return
    beside = found.folder
    if (beside / MASK).is_file():
        raise UserError(f"{beside} is such a folder already: copy it")
    if not (beside / CONFIG).is_file():
        raise UserError(f"{found.weights} is no file of ours and no {CONFIG} lies beside it: use --as dense or packed")
    copy_beside(beside, out)
    if found.by_model:
        loaded = from_pretrained(beside)
        found.solution.install(loaded)
        save_pretrained(loaded, out, card)
        return
    for file in filter(Path.is_file, (beside / name for name in CONFIGURATION)):
        write_whole(out / file.name, file.read_bytes())
    write_tensors(out / WEIGHTS, found.state, {"format": "pt"})
    write_whole(out / CARD, card.encode())


def _smaller(found: "Source", out: Path) -> None:
    """A model of ours of any widths; one of transformers in a folder, where its configuration can tell the widths."""
    from vlp_bench.models.checkpoints.pretrained import from_pretrained, save_pretrained
    from vlp_bench.models.checkpoints.read_write import save_model
    from vlp_bench.pruning.structured.materialise import materialised
    from vlp_bench.results.card import model_card
    from vlp_bench.runs.own_model.writing import copy_beside
    from vlp_bench.runs.pruned_model import model_of

    own = model_of(found)
    if own is not None and out.suffix == ".safetensors":
        save_model(out, materialised(own, found.solution.masks), _about(found))
        return
    model = own or from_pretrained(found.folder)
    if own is None:
        model.load_state_dict(found.state, strict=False)
    library = "vlp_bench" if own is not None else "transformers"
    card = model_card(found.name, found.solution, found.metrics, found.provenance, library, smaller=True)
    small = materialised(model, found.solution.masks)
    try:
        save_pretrained(small, out, card)
    except ValueError as reason:
        _check_of_units(_numbers(model) - _numbers(small), found.solution.total - found.solution.kept, reason)
        raise
    if own is None:
        copy_beside(found.folder, out)


def _numbers(model: "nn.Module") -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _check_of_units(cut: int, removed: int, reason: ValueError) -> None:
    """Raise UserError if most of what a mask removes lies beside the units that happen to be gone."""
    if 2 * cut < removed:
        raise UserError(
            f"the mask removes single weights: {removed:,} are zero, and {cut:,} numbers go with whole units. "
            "Prune by units (pruner=flap, pruner=wanda_sp) for a smaller model, or use --as packed"
        ) from reason


# report


def _report(args: argparse.Namespace) -> None:
    import torch

    from vlp_bench.models.stacks import with_slices
    from vlp_bench.pruning.masks.safetensors_files import write_whole
    from vlp_bench.pruning.masks.semi_structured import why_not_here
    from vlp_bench.pruning.masks.size_and_speed import broken_groups, sizes, times, verdict
    from vlp_bench.runs.pruned_model import source
    from vlp_bench.runs.terminal.console import console

    tokens, device = _counts("--tokens", args.tokens), args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise UserError(f"--device {device}: use cpu, or cuda where there is a GPU")
    found = source(args.source, args.weights, SHIPPED)
    masks = found.solution.masks
    state = with_slices(found.state, masks)
    itemsize = max(state[name].element_size() for name in masks)
    stored = sizes(masks, itemsize)
    measured = times({name: state[name] for name in masks}, masks, tokens, device, args.rounds)
    words = verdict(stored, measured)
    whole = _whole(found, _counts("--batches", args.batches), device, args.rounds)
    console.print(f"{found.name}: {count_of(len(masks), 'layer')}, {found.solution.total:,} weights, "
                  f"{100 * found.solution.sparsity:.2f} % zero", soft_wrap=True, markup=False)  # fmt: skip
    for table in _tables(stored, measured, found.solution.total, _where(device)):
        console.print(table)
    if broken := broken_groups(masks):
        console.print(f"2:4 can't hold this mask: {100 * broken:.1f} % of groups of four keep more than two.")
    elif reason := why_not_here(torch.device(device)):
        console.print(f"2:4 holds this mask, but nothing runs so here: {reason}.", soft_wrap=True, markup=False)
    for sentence in words:
        console.print(sentence, soft_wrap=True, markup=False)
    if whole:
        console.print(_whole_table(whole, _where(device)))
    if args.json:
        content = {"sizes": [vars(s) for s in stored], "times": [vars(t) for t in measured], "verdict": words,
                   "whole": whole}  # fmt: skip
        write_whole(args.json, json.dumps(content | {"device": _where(device)}, indent=2).encode())


def _whole(found: "Source", batches: list[int], device: str, rounds: int) -> list[dict[str, Any]]:
    """What a forward pass costs before and after units are cut out; nothing where none are, or the model isn't ours."""
    from vlp_bench.pruning.structured.forward_cost import forward_costs
    from vlp_bench.pruning.structured.materialise import kept_units, materialised
    from vlp_bench.runs.pruned_model import model_of

    model = model_of(found)
    if model is None or not kept_units(model, found.solution.masks):
        return []
    pair, rows, adapter = [model.to(device), materialised(model, found.solution.masks).to(device)], [], model.adapter
    for count in batches:
        batch = _drawn(model.config, count, device)
        costs = forward_costs(pair, lambda own, batch=batch: adapter.encode(own, batch), rounds)
        rows += [{"model": name, "batch": count, **vars(cost)}
                 for name, cost in zip(("before", "after"), costs, strict=True)]  # fmt: skip
    return rows


def _drawn(config: Any, rows: int, device: str) -> Any:
    """Noise for images and captions: what it shows doesn't change the cost."""
    import torch

    from vlp_bench.batch import Batch

    images = torch.randn(rows, 3, config.image_size, config.image_size, device=device)
    if not hasattr(config, "vocab_size"):
        return Batch(images)
    length = min(TEXT, config.max_positions)
    ids = torch.randint(min(5, config.vocab_size - 1), config.vocab_size, (rows, length), device=device)
    return Batch(images, ids, torch.ones_like(ids))


def _whole_table(whole: list[dict[str, Any]], where: str) -> Any:
    from rich import box
    from rich.table import Table

    title = f"one forward pass, captions of {TEXT} tokens at most ({where})"
    table = Table(*("model", "batch", "parameters", "GFLOP", "ms"), title=title, box=box.SIMPLE_HEAD)
    for row in whole:
        numbers = (f"{row['parameters']:,}", f"{row['flops'] / 1e9:.3f}", f"{row['milliseconds']:.2f}")
        table.add_row(row["model"], str(row["batch"]), *numbers)
    return table


def _counts(name: str, text: str) -> list[int]:
    try:
        found = [int(word) for word in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise UserError(f"{name} {text}: whole numbers of at least 1, with commas, as in 1,30,197")
    return found


def _where(device: str) -> str:
    import torch

    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, float16 (CSR float32)"
    return f"CPU, {torch.get_num_threads()} thread(s), float32"


def _tables(stored: Any, measured: Any, total: int, where: str) -> Iterator[Any]:
    from rich import box
    from rich.table import Table

    table = Table(f"storage ({stored[0].bytes // total}-byte values)", box=box.SIMPLE_HEAD)
    for name in ("bytes", "bytes a weight", "of dense"):
        table.add_column(name, justify="right")
    for size in stored:
        note = "" if size.possible else " (not this mask)"
        share = f"{100 * size.bytes / stored[0].bytes:.1f} %"
        table.add_row(size.form + note, f"{size.bytes:,}", f"{size.bytes / total:.3f}", share)
    yield table
    tokens = list(dict.fromkeys(time.tokens for time in measured))
    table = Table(f"ms for all layers ({where})", *(count_of(count, "token") for count in tokens), box=box.SIMPLE_HEAD)
    for form in dict.fromkeys(time.form for time in measured):
        own = {time.tokens: time.milliseconds for time in measured if time.form == form}
        table.add_row(form, *(f"{own[count]:.3f}" if count in own else "–" for count in tokens))
    yield table


if __name__ == "__main__":
    main()
