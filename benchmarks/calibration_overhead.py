"""What calibration costs over plain passes over the same batches.

    python benchmarks/calibration_overhead.py [--size small|deep|paper] [--rows 4] [--batches 2] [--rounds 5] [PART ...]

forward: MULTIFLOW's and Wanda's statistics over a plain forward pass; goal: a ratio of at most 1.05.
backward: SNIP's gradients and first-order ECoFLaP's sizes, from one pass, over plain forward and backward passes of the
same losses with gradients of the prunable weights alone (and of all parameters); goal: at most 1.05.
peak: memory of the statistics' pass beside the model's own; goal: at most 1 GiB at the paper's size, 4 + 4 captions.
passes: over the data, for three sparsities; goal: 1.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from statistics import median

import torch
from support.measure import alone, interleaved, peak, ratio, seconds
from support.models import SIZES, pairs, xvlm
from torch import Tensor

import vlp_bench
from vlp_bench import Batch, Calibration
from vlp_bench.models.xvlm.model import XVLM
from vlp_bench.pruning.adapter import adapter_for
from vlp_bench.pruning.statistics.gradients import GradientSizes, MeanGradient

GOAL = 1.05
GIB = 2.0**30
SPARSITIES = [0.63, 0.75, 0.9]
PARTS = ["forward", "backward", "peak", "passes"]
Batches = list[list[Batch]]


class Counted(list[list[Batch]]):
    """Batches that count how often they are gone through."""

    passes = 0

    def __iter__(self) -> Iterator[list[Batch]]:
        self.passes += 1
        return super().__iter__()


def forward(model: XVLM, batches: Batches, rounds: int) -> None:
    """Statistics of activations against the passes they are made in."""
    adapter = adapter_for(model)

    @torch.no_grad()
    def plain() -> None:
        for parts in batches:
            for part in parts:
                adapter.encode(model, part)

    fresh = [Calibration(model, batches) for _ in range(rounds + 1)]  # looks once at every weight: is it finite?
    runs = {"plain forward": plain, "statistics": lambda: fresh.pop().norms()}
    found = interleaved(runs, rounds)
    show(found)
    print(f"  statistics / plain forward = {ratio(found['statistics'], found['plain forward']):.3f}  (goal {GOAL:.2f})")


def backward(model: XVLM, batches: Batches, rounds: int) -> None:
    """Gradients and their sizes against plain passes."""
    adapter, prunable = adapter_for(model), Calibration(model).layers

    def plain(parameters: Iterable[Tensor]) -> None:
        for parameter in model.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
        for parameter in parameters:
            parameter.requires_grad_(True)
        for parts in batches:
            for part in parts:
                (adapter.loss(model, part) / len(parts)).backward()
        model.requires_grad_(True)
        model.zero_grad()

    def shared() -> None:
        calibration = Calibration(model, batches)
        calibration.collect(GradientSizes(), MeanGradient())

    runs = {
        "plain, prunable": lambda: plain([layer.weight for layer in prunable.values()]),
        "plain, all": lambda: plain(list(model.parameters())),
        "shared pass": shared,
    }
    found = interleaved(runs, rounds)
    show(found)
    for name in list(runs)[:2]:
        print(f"  shared pass / {name} = {ratio(found['shared pass'], found[name]):.3f}  (goal {GOAL:.2f})")


def show(found: dict[str, list[float]]) -> None:
    """Median seconds."""
    for name, spent in found.items():
        print(f"  {name:16s} {median(spent):8.3f} s")


def passes(model: XVLM, batches: Batches) -> None:
    """How often the data are gone through for three sparsities."""
    counted = Counted(batches)
    calibration = Calibration(model, counted)
    counted.passes = 0
    first = seconds(lambda: vlp_bench.prune(model, "multiflow", SPARSITIES[0], calibration))
    rest = seconds(lambda: vlp_bench.prune(model, "multiflow", SPARSITIES[1:], calibration))
    print(f"  first sparsity {first:.3f} s, two more {rest:.3f} s, calibration passes: {counted.passes}  (goal 1)")


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Bytes beside the model's own after MULTIFLOW's and Wanda's pass, in this process."""
    before = peak()
    model = xvlm(args.size)
    own = sum(p.numel() * p.element_size() for p in model.parameters())
    Calibration(model, pairs(args.size, args.rows, args.batches)).norms()
    return {"beside": peak() - before - own, "model": own}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; none: all")
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--rows", type=int, default=4, help="captions in each of the two parts of a batch")
    parser.add_argument("--batches", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        print(json.dumps(measure(args)))
        return
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"unknown part {min(unknown)!r}: use {', '.join(PARTS)}")
    wanted = args.parts or PARTS
    print(f"XVLM {args.size}, {args.batches} batches of {args.rows} + {args.rows}, {torch.get_num_threads()} thread(s)")
    if "peak" in wanted:
        sizes = ["--size", args.size, "--rows", str(args.rows), "--batches", str(args.batches)]
        found = alone(__file__, "--alone", *sizes)
        print(f"  peak: the model's {found['model'] / GIB:.2f} GiB + {found['beside'] / GIB:.2f} GiB  (goal 1.00)")
    if wanted == ["peak"]:
        return
    model, batches = xvlm(args.size), pairs(args.size, args.rows, args.batches)
    if "forward" in wanted:
        forward(model, batches, args.rounds)
    if "backward" in wanted:
        backward(model, batches, args.rounds)
    if "passes" in wanted:
        passes(model, batches)


if __name__ == "__main__":
    main()
