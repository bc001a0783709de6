"""`vlp-bench prune` and `vlp-bench model show`: from a folder of transformers to a pruned one."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from vlp_bench.data.readers.calibration_sets import KINDS, TEXTS, CalibrationSet, Example, read_set
from vlp_bench.models.checkpoints.hub import quietly
from vlp_bench.models.checkpoints.locations import HUB, content_hash
from vlp_bench.models.foreign.adapter import TransformersAdapter
from vlp_bench.models.foreign.inputs import Inputs
from vlp_bench.models.foreign.loading import (
    check_numbers,
    found_folder,
    load,
    skeleton,
    skeleton_with_buffers,
    stored_dtype,
    warn_of,
)
from vlp_bench.models.foreign.tree import VISION
from vlp_bench.models.offloading import Offloaded, StoredWeights, offloaded
from vlp_bench.pruning import catalogue
from vlp_bench.pruning.layers import find_layers, preserve_weights
from vlp_bench.pruning.needs import Needs, needs_of
from vlp_bench.pruning.precision import Precision, resolved, slow_dtype, without_effect
from vlp_bench.pruning.pruner import Pruner
from vlp_bench.pruning.solution import Solution
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.results.pruner_names import named
from vlp_bench.runs.device import peak
from vlp_bench.runs.own_model import plan, screen
from vlp_bench.runs.own_model.reach import takes_padding, unreached
from vlp_bench.runs.own_model.request import Request, Selection, listed
from vlp_bench.runs.own_model.writing import check_place, restore_types, whole, write, write_stored
from vlp_bench.runs.progress import Pruning
from vlp_bench.runs.provenance import versions
from vlp_bench.runs.terminal.errors import UserError

UNPADDED = "a {} can't be calibrated on texts that are padded: those of one length go together"


@dataclass(frozen=True)
class Data:
    """A calibration set and those of its examples that are shown; `sees`: whether they have images."""

    source: CalibrationSet
    examples: Sequence[Example]

    @property
    def sees(self) -> bool:
        return any(example.images for example in self.examples)

    @property
    def told(self) -> str:
        return f"{len(self.examples)} of {len(self.source.records)} {self.source.kind} in {self.source.path.name}"


def show(selection: Selection, console: Console) -> None:
    """Print what of a model would be pruned; its weights are not looked at."""
    selection.check()
    folder = found_folder(selection.model, config_alone=True)
    with quietly():
        model = skeleton(folder)
    screen.show(console, f"{selection.model} ({type(model).__name__})", _adapter(model, selection).structure)


def prune(request: Request, options: Mapping[str, Any], console: Console) -> list[tuple[Solution, Path]]:
    """Prune a model as asked and write it; the solutions and where they lie.

    Raises:
        UserError, ValueError: says what was given, what is allowed, and what would mend it.
    """
    with quietly():
        try:
            return _prune(request, options, console)
        except torch.OutOfMemoryError:
            less = "a smaller batch_size= or max_length=" if request.batch_size > 1 else "dtype=bfloat16 or device=cpu"
            raise UserError(f"{request.device} is out of memory: give {less}") from None


def _prune(request: Request, options: Mapping[str, Any], console: Console) -> list[tuple[Solution, Path]]:
    folder = found_folder(request.model, config_alone=request.plan)
    device, pruner = checked_device(request.device), _pruner(request, options)
    check_numbers(folder)
    pruner.check_sparsities(request.sparsities)
    precision = resolved(request.pruning_precision, request.pruner, device)
    needs = needs_of(replace(pruner, modality=None, num_batches=None))
    if request.plan:
        return _planned(folder, request, pruner, needs, console)
    check_place(Path(request.out))
    reads = needs.reads
    data = _data(request, reads, console)
    model = skeleton_with_buffers(folder) if request.offload else load(folder, request.dtype)
    adapter = _adapter(model, request)
    screen.show(console, f"{request.model} ({type(model).__name__})", adapter.structure)
    _check_leaves_some(adapter, request)
    _check_sees(data, adapter, request)
    _approve(request, console)
    batches, inputs = None, Inputs(model, folder, request.max_length)
    if data is not None:
        screen.hint(console, slow_dtype(model.dtype, device))
        console.print(f"calibrated on {data.told}", soft_wrap=True, markup=False)
        batches = inputs.batches(data.examples, data.source.kind, request.batch_size)
    started = time.perf_counter()
    if request.offload:
        dtype = getattr(torch, request.dtype) if request.dtype else stored_dtype(folder)
        warn_of(folder, model, Offloaded(model, StoredWeights(folder), device, dtype).unread)
    with peak(device) as memory:
        placed = model if request.offload else nn.Module.to(model, device)
        if data is not None and reads == "activations" and not takes_padding(placed, adapter, batches or ()):
            screen.hint(console, UNPADDED.format(type(model).__name__))
            batches = inputs.batches(data.examples, data.source.kind, request.batch_size, even=True)
        solutions = _solutions(request, pruner, placed, adapter, batches, reads, precision, console)
        found = _written(request, model, folder, adapter, solutions, data)
    screen.written(console, found, time.perf_counter() - started, memory.gigabytes)
    return found


def _planned(
    folder: Path, request: Request, pruner: Pruner, needs: Needs, console: Console
) -> list[tuple[Solution, Path]]:
    """Say what it would take; nothing is pruned."""
    show(request, console)
    plan.show(console, plan.plan_of(skeleton(folder), request, pruner, needs), request)
    return []


def _pruner(request: Request, options: Mapping[str, Any]) -> Pruner:
    from omegaconf import OmegaConf

    seeded = "seed" in OmegaConf.load(catalogue.folder() / f"{request.pruner}.yaml")
    given = {**({"seed": request.seed} if seeded else {}), **options}
    return catalogue.load(request.pruner, given, listed(request.allow))


def checked_device(name: str) -> torch.device:
    """UserError for anything but cpu, or cuda where there is a GPU."""
    if name not in ("cpu", "cuda") or (name == "cuda" and not torch.cuda.is_available()):
        raise UserError(f"device={name}: use cpu, or cuda where there is a GPU")
    return torch.device(name)


def _data(request: Request, reads: str, console: Console) -> Data | None:
    """What is calibrated on; None for a pruner that reads weights only. UserError if it is not given and needed."""
    screen.hint(console, without_effect(request.pruning_precision, request.pruner, reads))
    if reads == "weights":
        if request.calibration:
            console.print(f"pruner={request.pruner} reads weights only: calibration= is not read", markup=False)
        return None
    if not request.calibration:
        raise UserError(f"pruner={request.pruner} reads {reads}: give calibration=PATH, {KINDS}")
    found = read_set(request.calibration)
    return Data(found, found.examples(request.num_samples, request.seed))


def _adapter(model: nn.Module, selection: Selection) -> TransformersAdapter:
    return TransformersAdapter(model, **selection.options)


def _check_leaves_some(adapter: TransformersAdapter, selection: Selection) -> None:
    """UserError where nothing is left to prune."""
    if not adapter.structure.prunable:
        left = "a smaller leave=" if selection.leave else "also=[PATTERN] or prune_heads=true"
        raise UserError(f"model={selection.model}: nothing of it is pruned, the table says why; {left} may change that")


def _check_reaches_some(adapter: TransformersAdapter, request: Request) -> None:
    """UserError where the data reach nothing of what was to be pruned."""
    if not adapter.structure.prunable:
        raise UserError(
            f"calibration={request.calibration}: nothing is left to prune with pruner={request.pruner}, as the layers "
            "above are not reached; give data that reach them, or a pruner that reads weights only (omp, lamp)"
        )


def _check_sees(data: Data | None, adapter: TransformersAdapter, request: Request) -> None:
    """UserError for a model that sees, all of which is to be pruned, and a set without images."""
    if data is not None and not data.sees and VISION in adapter.structure.modalities:
        others = [m for m in adapter.structure.modalities if m == "text"]
        instead = "; or prune what reads texts only: modality=text" if others else ""
        kind = "texts" if data.source.kind == TEXTS else f"{data.source.kind} without images"
        raise UserError(
            f"calibration={request.calibration} holds {kind}, which do not reach the vision layers: give images with "
            f"captions, or chats with images{instead}"
        )


def _approve(request: Request, console: Console) -> None:
    """Ask on a terminal; elsewhere the word has to be given."""
    if request.yes:
        return
    if not sys.stdin.isatty():
        raise UserError("nothing is pruned without approval: look at the table, then add yes=true")
    if console.input("prune these layers? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UserError("nothing was pruned; also=, leave=, modality= and prune_heads= change what is")


def _solutions(
    request: Request,
    pruner: Pruner,
    model: nn.Module,
    adapter: TransformersAdapter,
    batches: Sequence[Any] | None,
    reads: str,
    precision: Precision,
    console: Console,
) -> Mapping[float, Solution]:
    with Pruning(console) as progress:
        if batches is not None:
            missed = unreached(model, adapter, batches, reads)
            adapter.leave(missed)
            screen.left(console, list(missed.items()))
            _check_reaches_some(adapter, request)
        watched = None if batches is None else progress(batches, pruner.num_batches)
        given: dict[str, Any] = {"seed": request.seed, "num_batches": pruner.num_batches}
        calibration = Calibration(model, watched, adapter, precision=precision, **given)
        return pruner.prune(model, request.sparsities, calibration)


def _written(
    request: Request,
    model: nn.Module,
    folder: Path,
    adapter: TransformersAdapter,
    solutions: Mapping[float, Solution],
    data: Data | None,
) -> list[tuple[Solution, Path]]:
    """One folder, or one below it for each of several sparsities, all of them or none."""
    out, found = Path(request.out), []
    place = request.model if request.model.startswith(HUB) else folder.absolute().name
    known = {
        "model": place,
        "model_weights": content_hash(folder),
        "seed": request.seed,
        "calibration": data.told if data else None,
        "versions": versions(),
        "stays_dense": adapter.structure.reasons,
    }
    layers = find_layers(model, adapter)
    with whole(out) as meanwhile:
        for sparsity, solution in solutions.items():
            below = f"{sparsity:.15g}" if len(solutions) > 1 else "."
            (meanwhile / below).mkdir(exist_ok=True)
            solution.report.update(known)
            pruner = named(request.pruner, solution.report.get("settings"))
            name = f"{place}, {pruner} at {100 * sparsity:g} %"
            others = sparsity != list(solutions)[-1]
            if (own := offloaded(model)) is not None:
                dtype = own.dtype if request.dtype else None
                write_stored(own, folder, meanwhile / below, solution, name, known, dtype)
            else:
                with preserve_weights(layers if others else {}):
                    solution.install(model)
                    write(model, folder, meanwhile / below, solution, name, known)
                    if not request.dtype:
                        restore_types(meanwhile / below, folder)
            found.append((solution, out / below))
    return found
