"""Whole calls of `prune` beside programs that anyone could have written, in one run: seconds, ratio, peak memory.

    python benchmarks/whole_calls.py [--weights 184] [--size paper] [--rounds 3] [--threads 1] [--json FILE] [NAME ...]

The model is a stand-in: linear layers of XVLM's shapes with normal weights, 184 million of them; for MULTIFLOW an XVLM
of `--size` with random weights, and batches of 4 + 4 pairs. Rows named `_first` are of a first call, which hashes all
weights; the others of later calls with a model whose hash is known. Seconds are those of the processor (of the clock
with several threads), ours and each baseline's in turn; a ratio is the median over the rounds, against the fastest
variant of the baseline. Peaks are of a process for each side and count what comes on top of the model. The masks of
both sides are compared: they may differ in ties at a threshold, and, where the baseline adds up in float32, in what it
rounds.

Goals: OMP at three sparsities 1.3 times as fast as one `numpy.partition` for all three; at one sparsity 25 times as
fast as `torch.nn.utils.prune.global_unstructured`; LAMP at three sparsities 10 times as fast as sort, cumulative sum
and `kthvalue`; SNIP's mask from gradients that are known 6 times as fast as concatenate and `kthvalue`; MULTIFLOW at
three sparsities 6 (2 batches) and 5 times (16) as fast as the released way; its `floor` is what the ratio would be if
the forward passes over the batches were all of the call. Rows in `_bf16` have the passes of both sides in bfloat16,
which processors with AMX are fast at (`pruning_precision=bf16`). `kernel` rows are of a part of a call.
`benchmarks/bench.py` compares some of the rows with those that are stored.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.utils.prune as torch_prune
from support.checkout import commit
from support.measure import alone, peak, ratio, seconds
from support.models import SIZES, pairs, xvlm
from support.released import multiflow
from support.rows import command_line, perform
from torch import Tensor, nn

import vlp_bench
from vlp_bench.models.xvlm.model import XVLM
from vlp_bench.pruning import weights_hash
from vlp_bench.pruning.adapter import adapter_for
from vlp_bench.pruning.precision import Precision
from vlp_bench.pruning.selection.order_statistics import search
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.gradients import MeanGradient
from vlp_bench.pruning.statistics.on_disk import StoredStatistics
from vlp_bench.runs.provenance import processor

SPARSITIES = [0.63, 0.75, 0.9]
GIB = 2.0**30
Masks = list[list[Any]]  # by sparsity, by layer


class StandIn(nn.Module):
    """Linear layers without biases of XVLM's shapes, in its order, until there are `weights` of them."""

    def __init__(self, weights: int) -> None:
        super().__init__()
        with torch.device("meta"):
            xvlm = XVLM(SIZES["paper"])
        shapes = [tuple(xvlm.get_parameter(name).shape) for name in adapter_for(xvlm).prunable(xvlm)]
        generator = torch.Generator().manual_seed(0)
        layers = []
        for rows, columns in _until(shapes, weights):
            layer = nn.Linear(columns, rows, bias=False, device="meta")
            layer.weight = nn.Parameter(torch.randn(rows, columns, generator=generator) * 0.02)
            layers.append(layer)
        self.layers: Any = nn.ModuleList(layers)

    @property
    def weights(self) -> list[Tensor]:
        """Of every layer."""
        return [layer.weight.detach() for layer in self.layers]


def _until(shapes: list[tuple[int, ...]], weights: int) -> Iterator[tuple[int, ...]]:
    used = 0
    for shape in cycle(shapes):
        if used >= weights:
            return
        used += shape[0] * shape[1]
        yield shape


def ours(model: StandIn, pruner: str, sparsities: list[float], gradients: list[Tensor] | None = None) -> Masks:
    """One call, or with gradients that are known already."""
    calibration = None
    if gradients is not None:
        names = [name for name, _ in model.named_parameters()]
        known = StoredStatistics({MeanGradient().name: dict(zip(names, gradients, strict=True))}, None)
        calibration = Calibration(model, stored=known)
    found: Any = vlp_bench.prune(model, pruner, sparsities, calibration)
    return [list(found[sparsity].masks.values()) for sparsity in sparsities]


# Programs that anyone could have written


def partitioned(model: StandIn, sparsities: list[float]) -> Masks:
    """|w| of all layers side by side, one `numpy.partition` for all thresholds."""
    sizes = [np.abs(weight.numpy()) for weight in model.weights]
    everything = np.concatenate([size.reshape(-1) for size in sizes])
    ranks = [removed(len(everything), sparsity) - 1 for sparsity in sparsities]
    everything.partition(ranks)
    return [[size > everything[rank] for size in sizes] for rank in ranks]


def global_unstructured(model: StandIn, sparsities: list[float]) -> Masks:
    """torch's own, a call for each sparsity."""
    found = []
    for sparsity in sparsities:
        parts = [(layer, "weight") for layer in model.layers]
        total = sum(layer.weight.numel() for layer in model.layers)
        kept = [layer.weight for layer in model.layers]
        torch_prune.global_unstructured(parts, torch_prune.L1Unstructured, amount=removed(total, sparsity))
        found.append([layer.weight_mask.bool() for layer in model.layers])
        for layer, weight in zip(model.layers, kept, strict=True):
            layer._forward_pre_hooks.clear()
            del layer.weight_mask, layer.weight_orig, layer.weight
            layer.weight = weight
    return found


def thresholded(scores: list[Tensor], sparsities: list[float]) -> Masks:
    """Scores side by side, `kthvalue` for each sparsity, as MULTIFLOW's released code does."""
    everything = torch.cat([score.flatten() for score in scores])
    found = []
    for sparsity in sparsities:
        threshold = everything.kthvalue(removed(len(everything), sparsity)).values
        found.append([score > threshold for score in scores])
    return found


def lamp_by_torch(model: StandIn, sparsities: list[float]) -> Masks:
    """LAMP as released: sort, cumulative sum, scatter; then `kthvalue` for each sparsity."""
    scores = []
    for weight in model.weights:
        squares, order = weight.flatten().square().sort()
        shares = squares / (squares.sum() - squares.cumsum(0) + squares)
        scores.append(torch.empty_like(squares).scatter_(0, order, shares).view_as(weight))
    return thresholded(scores, sparsities)


def lamp_by_numpy(model: StandIn, sparsities: list[float]) -> Masks:
    """LAMP by numpy's faster sort, sums in float64, one `numpy.partition` for all thresholds."""
    scores = []
    for weight in model.weights:
        flat = np.abs(weight.numpy()).reshape(-1)
        order = flat.argsort()
        squares = np.square(flat[order], dtype=np.float64)
        shares = squares / squares[::-1].cumsum()[::-1]
        scores.append(np.empty(len(flat), np.float32))
        scores[-1][order] = shares
    everything = np.concatenate(scores)
    ranks = [removed(len(everything), sparsity) - 1 for sparsity in sparsities]
    everything.partition(ranks)
    shapes = [tuple(weight.shape) for weight in model.weights]
    return [[(s > everything[rank]).reshape(n) for s, n in zip(scores, shapes, strict=True)] for rank in ranks]


def snip_by_torch(model: StandIn, sparsities: list[float], gradients: list[Tensor]) -> Masks:
    """|g · w| side by side, `kthvalue`."""
    return thresholded([(g * w).abs() for g, w in zip(gradients, model.weights, strict=True)], sparsities)


def snip_by_numpy(model: StandIn, sparsities: list[float], gradients: list[Tensor]) -> Masks:
    """|g · w| side by side, one `numpy.partition`."""
    scores = [np.abs(g.numpy() * w.numpy()) for g, w in zip(gradients, model.weights, strict=True)]
    everything = np.concatenate([score.reshape(-1) for score in scores])
    ranks = [removed(len(everything), sparsity) - 1 for sparsity in sparsities]
    everything.partition(ranks)
    return [[score > everything[rank] for score in scores] for rank in ranks]


def removed(total: int, sparsity: float) -> int:
    """How many weights go."""
    return total - round((1 - sparsity) * total)


@dataclass(frozen=True)
class Work:
    """One row of the table: what we do, and variants of what it is compared with."""

    name: str
    sparsities: list[float]
    ours: Callable[..., Masks]
    baselines: dict[str, Callable[..., Masks]]
    goal: float
    gradients: bool = False
    batches: int = 0  # of pairs, which an XVLM is calibrated on
    rounds: int = 99  # at most
    floor: Callable[..., object] | None = None  # what no such call can do without
    table: str = "whole call"


def _omp(model: StandIn, sparsities: list[float]) -> Masks:
    return ours(model, "omp", sparsities)


def _lamp(model: StandIn, sparsities: list[float]) -> Masks:
    return ours(model, "lamp", sparsities)


def _snip(model: StandIn, sparsities: list[float], gradients: list[Tensor]) -> Masks:
    return ours(model, "snip", sparsities, gradients)


def _first(run: Callable[..., Masks]) -> Callable[..., Masks]:
    """The call as if no weights had been hashed before."""

    def first(*given: Any) -> Masks:
        weights_hash._known.clear()
        return run(*given)

    return first


def _multiflow(model: Any, sparsities: list[float], batches: Any, precision: Precision = "fp32") -> Masks:
    found: Any = vlp_bench.prune(model, "multiflow", sparsities, Calibration(model, batches, precision=precision))
    return [list(found[sparsity].masks.values()) for sparsity in sparsities]


@torch.no_grad()
def _forward(model: Any, sparsities: list[float], batches: Any) -> Masks:
    """The calibration set once through the model."""
    adapter = adapter_for(model)
    for part in (part for batch in batches for part in batch):
        adapter.encode(model, part)
    return []


def _in_bf16(run: Callable[..., Masks]) -> Callable[..., Masks]:
    """The call with forward passes in bfloat16, as autocast has them."""

    def cast(*given: Any) -> Masks:
        with torch.autocast("cpu", torch.bfloat16):
            return run(*given)

    return cast


def _multiflow_work(batches: int, goal: float) -> Work:
    name = f"MULTIFLOW, 3 sparsities, {batches} batches"
    return Work(name, SPARSITIES, _multiflow, {KEPT: multiflow}, goal, batches=batches, rounds=1, floor=_forward)


def _bf16(work: Work) -> Work:
    """Both sides, and the floor, in bfloat16."""
    others = {side: _in_bf16(run) for side, run in work.baselines.items()}
    ours = partial(_multiflow, precision="bf16")
    return replace(work, name=f"{work.name}, bf16", ours=ours, baselines=others, floor=_in_bf16(_forward))


def _thresholds(model: StandIn, sparsities: list[float]) -> Masks:
    """The scores at three ranks among all |w|."""
    weights = [weight.abs() for weight in model.weights]
    sizes, locate = search({str(number): lambda own=own: own for number, own in enumerate(weights)})
    ranks = [sum(sizes) - removed(sum(sizes), sparsity) + 1 for sparsity in sparsities]
    found = locate(ranks)
    return [[np.float32(found[rank].score) for rank in ranks]]


def _thresholds_by_numpy(model: StandIn, sparsities: list[float]) -> Masks:
    everything = np.concatenate([np.abs(weight.numpy()).reshape(-1) for weight in model.weights])
    ranks = [removed(len(everything), sparsity) - 1 for sparsity in sparsities]
    everything.partition(ranks)
    return [[everything[rank] for rank in ranks]]


FLOOR = "floor"
KEPT = "histories kept, three passes"
RELEASED, NUMPY = "sort, cumulative sum, scatter, kthvalue", "the same by numpy, one partition"
ROWS = {
    "omp3": Work("OMP, 3 sparsities", SPARSITIES, _omp, {"one numpy.partition for all": partitioned}, 1.3),
    "omp": Work("OMP, 1 sparsity", [0.75], _omp, {"torch.nn.utils.prune": global_unstructured}, 25),
    "lamp3": Work("LAMP, 3 sparsities", SPARSITIES, _lamp, {RELEASED: lamp_by_torch}, 10),
    "lamp3_numpy": Work("LAMP, 3 sparsities", SPARSITIES, _lamp, {NUMPY: lamp_by_numpy}, 1),
    "snip": Work("SNIP's mask", [0.75], _snip, {"concatenate, kthvalue": snip_by_torch}, 6, True),
    "snip_numpy": Work("SNIP's mask", [0.75], _snip, {"concatenate, numpy.partition": snip_by_numpy}, 1, True),
    "omp3_first": Work(
        "OMP, 3 sparsities, first call", SPARSITIES, _first(_omp), {"one numpy.partition for all": partitioned}, 1.3
    ),
    "lamp3_first": Work("LAMP, 3 sparsities, first call", SPARSITIES, _first(_lamp), {RELEASED: lamp_by_torch}, 10),
    "snip_first": Work(
        "SNIP's mask, first call", [0.75], _first(_snip), {"concatenate, kthvalue": snip_by_torch}, 6, True
    ),
    "multiflow2": _multiflow_work(2, 6),
    "multiflow16": _multiflow_work(16, 5),
    "multiflow2_bf16": _bf16(_multiflow_work(2, 6)),
    "multiflow16_bf16": _bf16(_multiflow_work(16, 5)),
    "thresholds": Work(
        "3 thresholds",
        SPARSITIES,
        _thresholds,
        {"concatenate, numpy.partition": _thresholds_by_numpy},
        1,
        table="kernel",
    ),
}


def prepared(work: Work, weights: float, size: str) -> tuple[Any, tuple[Any, ...]]:
    """The model, and what both sides are given."""
    if work.batches:
        model = xvlm(size)
        return model, (model, work.sparsities, pairs(size, 4, work.batches))
    model = StandIn(round(weights * 1e6))
    generator = torch.Generator().manual_seed(1)
    gradients = [torch.randn(weight.shape, generator=generator) for weight in model.weights] if work.gradients else None
    return model, (model, work.sparsities) if gradients is None else (model, work.sparsities, gradients)


def main() -> None:
    parser = command_line(__doc__, ROWS)
    parser.add_argument("--weights", type=float, default=184, help="millions")
    parser.add_argument("--size", choices=list(SIZES), default="paper", help="of the XVLM that MULTIFLOW prunes")
    args = parser.parse_args()
    perform(args, f"{args.weights:g} M weights", ROWS, measure, compare, say)


def compare(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of all sides in turn, then a process for each one's peak."""
    work = ROWS[name]
    rounds = min(args.rounds, work.rounds)
    given = ["--weights", str(args.weights), "--rounds", str(rounds), "--threads", str(args.threads)]
    given += ["--size", args.size]
    timed = alone(__file__, *given, "--alone", f"{name}/")
    peaks = {side: alone(__file__, *given, "--alone", f"{name}/{side}")["peak"] for side in ("ours", *work.baselines)}
    best = min(work.baselines, key=lambda side: median(timed["seconds"][side]))
    floor = timed["seconds"].pop(FLOOR, None)
    return {
        "row": name,
        "table": work.table,
        "work": work.name,
        "baseline": best,
        "ratio": round(ratio(timed["seconds"][best], timed["seconds"]["ours"]), 2),
        "goal": work.goal,
        "seconds": {side: round(median(spent), 3) for side, spent in timed["seconds"].items()},
        "peak_gib": {side: round(bytes_ / GIB, 3) for side, bytes_ in peaks.items()},
        "floor": None if floor is None else round(ratio(timed["seconds"][best], floor), 2),
        "masks_differ": timed["differ"],
        "model": f"XVLM {args.size}" if work.batches else f"{args.weights:g} M weights",
        "threads": args.threads,
        "rounds": rounds,
        "machine": processor(),
        "torch": torch.__version__,
        "commit": commit(),
        "load": round(os.getloadavg()[0], 1),
    }


def measure(alone_: str, args: argparse.Namespace) -> dict[str, Any]:
    """In a process of its own: the times of all sides of a row, or the peak of one."""
    name, _, side = alone_.partition("/")
    work = ROWS[name]
    model, given = prepared(work, args.weights, args.size)
    sides = {"ours": work.ours, **work.baselines}
    vlp_bench.prune(nn.Linear(8, 8), "omp", 0.5)  # imports what a first call imports
    if side:
        before = peak()
        sides[side](*given)
        return {"peak": peak() - before}
    watch = seconds if args.threads == 1 else _by_clock
    spent: dict[str, list[float]] = {side: [] for side in sides}
    found: dict[str, Masks] = {}

    def call(side: str) -> None:
        found[side] = sides[side](*given)

    for number in range(args.rounds):
        for side in list(sides) if number % 2 == 0 else reversed(list(sides)):
            spent[side].append(watch(partial(call, side)))
    if work.floor is not None:
        spent[FLOOR] = [watch(partial(work.floor, *given)) for _ in range(args.rounds)]
    first, *others = (found[side] for side in sides)
    differ = max((_differences(first, masks) for masks in others), default=0)
    assert all(bool(weight.isfinite().all()) for weight in model.parameters())
    return {"seconds": spent, "differ": differ}


def _by_clock(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _differences(one: Masks, other: Masks) -> int:
    pairs = ((a, b) for own, theirs in zip(one, other, strict=True) for a, b in zip(own, theirs, strict=True))
    return sum(int(np.count_nonzero(np.asarray(a) != np.asarray(b))) for a, b in pairs)


def say(row: dict[str, Any]) -> str:
    """A row of the table in words."""
    times = ", ".join(
        f"{side} {spent:.2f} s ({row['peak_gib'][side]:.2f} GiB)" for side, spent in row["seconds"].items()
    )
    against = f"{row['work']}: {row['ratio']:.2f} times as fast as {row['baseline']} (goal {row['goal']:g})"
    if row["floor"] is not None:
        against += f"; forward passes alone {row['floor']:.2f} times"
    return f"  {against}; {times}; {row['masks_differ']} entries differ"


if __name__ == "__main__":
    sys.exit(main())
