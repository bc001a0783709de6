"""Every pruner's time and peak memory, in multiples of a plain forward pass and of the model's bytes.

    python benchmarks/methods.py [--size tiny|small|deep|paper] [--rows 4] [--batches 2] [--sparsity 0.75] [NAME ...]
    python benchmarks/methods.py --size paper --batches 1 --losses 14 ecoflap ecoflap:memory ecoflap_first

Each runs in a process of its own, so that peaks don't hide one another; a plain forward pass is timed in the same
process, before and after. `loss` and `gradients` are plain passes over the same batches: forward with the loss, and
with the gradients of the prunable weights. NAME:memory is zeroth-order ECoFLaP that keeps outputs in memory.

Goals: ECoFLaP's zeroth order computes at most 0.60 of the naive block forwards (two whole passes for every direction)
and takes at most 1.05 times the memory of a plain forward pass. `--losses` ends it after so many losses, which is when
its peak has been seen (its 14th comes after the first block's widest matrix), but not its share of forwards.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from support.measure import alone, peak, seconds
from support.models import SIZES, pairs, xvlm
from torch import Tensor

import vlp_bench
from vlp_bench import Batch
from vlp_bench.models.xvlm.model import XVLM
from vlp_bench.pruning import catalogue
from vlp_bench.pruning.adapter import adapter_for
from vlp_bench.pruning.allocation.ecoflap import sensitivity
from vlp_bench.pruning.statistics.activation_cache import ActivationCache
from vlp_bench.pruning.statistics.calibration import Calibration

PLAIN = ["plain forward", "loss", "gradients"]
GIB = 2.0**30
FEW: dict[str, dict[str, Any]] = {  # the paper's numbers would only repeat the same work
    "itersnip": {"steps": 3},
    "multiflow_128": {"num_batches": None},
    "chita_pp": {"steps": 2, "memory_gb": 2.0},
    "chita": {"memory_gb": 2.0},
    "ecoflap": {"draws": 2},
    "ecoflap:memory": {"draws": 2, "allocate.keep_in": "memory"},
}


class Watched(ActivationCache):
    """Replays that are kept, to be asked what they computed."""

    made: list[ActivationCache] = []  # noqa: RUF012

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.made.append(self)


class Enough(Exception):
    """Ends a pruner."""


class Limited:
    """An adapter that gives so many losses; the rest is the given one's."""

    def __init__(self, adapter: Any, losses: int) -> None:
        self.adapter, self.left = adapter, losses

    def __getattr__(self, name: str) -> Any:
        return getattr(self.adapter, name)

    def loss(self, model: XVLM, batch: Batch) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise Enough
        return self.adapter.loss(model, batch)


def measure(name: str, args: argparse.Namespace) -> dict[str, float]:
    """Seconds and bytes of one pruner, or of one of the plain passes."""
    start = peak()
    model = xvlm(args.size)
    data = pairs(args.size, args.rows, args.batches)
    adapter = adapter_for(model)

    @torch.no_grad()
    def plain() -> None:
        for parts in data:
            for part in parts:
                adapter.encode(model, part)

    before, spent = seconds(plain), 0.0
    calibration = Calibration(model, data)
    sensitivity.ActivationCache = Watched
    if name in PLAIN:
        spent = seconds(partial(run_plain, name, calibration))
    else:
        if args.losses and name.startswith("ecoflap"):
            limited: Any = Limited(adapter, 2 * args.losses)  # a batch has two parts
            calibration = Calibration(model, data, limited)
        spent = seconds(partial(run_pruner, name, calibration, args.sparsity))
    found = {"bytes": peak() - start, "forward": (before + seconds(plain)) / 2, "seconds": spent}
    found["model"] = sum(p.numel() * p.element_size() for p in model.parameters())
    if Watched.made and not args.losses:
        replay, draws = Watched.made[0], FEW["ecoflap"]["draws"]
        found["share"] = replay.calls / (draws * replay.whole * 2 * len(calibration.layers))
    return found


def run_plain(name: str, calibration: Calibration) -> None:
    """One pass over all batches, with nothing but what its name says."""
    if name == "gradients":
        calibration.gradients()
    elif name == "loss":
        for loss in calibration.losses_of_batches(sys.maxsize):
            loss()


def run_pruner(name: str, calibration: Calibration, sparsity: float) -> None:
    """From calibration to masks."""
    with suppress(Enough):
        options = FEW.get(name, {})
        vlp_bench.prune(calibration.model, name.split(":")[0], sparsity, calibration, options=options)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="pruners; none: all")
    parser.add_argument("--size", choices=list(SIZES), default="tiny")
    parser.add_argument("--rows", type=int, default=4, help="captions in each of the two parts of a batch")
    parser.add_argument("--batches", type=int, default=2)
    parser.add_argument("--sparsity", type=float, default=0.75)
    parser.add_argument("--losses", type=int, default=0, help="after how many losses zeroth order ends; 0: all")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        print(json.dumps(measure(args.alone, args)))
        return
    print(f"XVLM {args.size}, {args.batches} batches of {args.rows} + {args.rows}, sparsity {args.sparsity}")
    print(f"  {'':18s}{'seconds':>9s}{'/ forward':>11s}{'GiB':>8s}{'/ model':>9s}{'/ forward':>11s}{'/ loss':>8s}")
    peaks: dict[str, float] = {}
    for name in [*PLAIN, *(args.names or [*[n for n in catalogue.names() if n != "dense"], "ecoflap:memory"])]:
        found = alone(__file__, *sys.argv[1:], "--alone", name)
        peaks[name] = found["bytes"]
        spent = found["forward"] if name == "plain forward" else found["seconds"]
        row = f"{spent:9.2f}{spent / found['forward']:11.2f}{found['bytes'] / GIB:8.2f}"
        row += f"{found['bytes'] / found['model']:9.2f}{found['bytes'] / peaks['plain forward']:11.3f}"
        row += f"{found['bytes'] / peaks['loss']:8.3f}" if "loss" in peaks else ""
        share = f"  {found['share']:.3f} of the naive block forwards (goal 0.60)" if "share" in found else ""
        print(f"  {name:18s}{row}{share}", flush=True)


if __name__ == "__main__":
    main()
