"""Every pruner's time and peak memory, in multiples of a plain forward pass and of the model's bytes.

    python benchmarks/methods.py [--size tiny|small|paper] [--rows 4] [--batches 2] [--sparsity 0.75] [NAME ...]

Each runs in a process of its own, so that peaks don't hide one another; a plain forward pass is timed in the same
process, before and after. Goals: ECoFLaP's zeroth order computes at most 0.60 of the naive block forwards (two whole
passes for every direction) and takes at most 1.05 times the memory of the plain forward pass.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from typing import Any

import torch
from support.measure import seconds
from support.models import SIZES, batch, xvlm

import vlp_bench
from vlp_bench.pruning import catalogue, sensitivity
from vlp_bench.pruning.adapter import adapter_for
from vlp_bench.pruning.calibration import Calibration
from vlp_bench.pruning.replay import Replay

PLAIN = "plain forward"
FEW: dict[str, dict[str, Any]] = {  # the paper's numbers would only repeat the same work
    "itersnip": {"steps": 3},
    "chita_pp": {"steps": 2, "memory_gb": 2.0},
    "chita": {"memory_gb": 2.0},
    "ecoflap": {"draws": 2},
}


def peak() -> float:
    """Highest resident memory of this process so far, or memory of the GPU, in bytes."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


class Watched(Replay):
    """Replays that are kept, to be asked what they computed."""

    made: list[Replay] = []  # noqa: RUF012

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.made.append(self)


def measure(name: str, args: argparse.Namespace) -> dict[str, float]:
    """Seconds and bytes of one pruner; with its name as a pruner's, or a plain forward pass."""
    start = peak()
    model = xvlm(args.size)
    data = [
        [batch(args.size, args.rows, 2 * i), batch(args.size, args.rows, 2 * i + 1, region=True)]
        for i in range(args.batches)
    ]
    adapter = adapter_for(model)

    @torch.no_grad()
    def plain() -> None:
        for parts in data:
            for part in parts:
                adapter.encode(model, part)

    before = seconds(plain)
    calibration = Calibration(model, data)
    sensitivity.Replay = Watched
    spent = 0.0
    if name != PLAIN:
        options = FEW.get(name, {})
        spent = seconds(lambda: vlp_bench.prune(model, name, args.sparsity, calibration, options=options))
    highest = peak()
    found = {"forward": (before + seconds(plain)) / 2, "seconds": spent, "bytes": highest - start}
    found["model"] = sum(p.numel() * p.element_size() for p in model.parameters())
    if Watched.made:
        draws = FEW["ecoflap"]["draws"]
        replay = Watched.made[0]
        found["share"] = replay.calls / (draws * replay.whole * 2 * len(calibration.layers))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="pruners; none: all")
    parser.add_argument("--size", choices=list(SIZES), default="tiny")
    parser.add_argument("--rows", type=int, default=4, help="captions in each of the two parts of a batch")
    parser.add_argument("--batches", type=int, default=2)
    parser.add_argument("--sparsity", type=float, default=0.75)
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        print(json.dumps(measure(args.alone, args)))
        return
    print(f"XVLM {args.size}, {args.batches} batches of {args.rows} + {args.rows}, sparsity {args.sparsity}")
    print(f"  {'':18s}{'seconds':>9s}{'/ forward':>11s}{'peak / model':>14s}{'/ forward':>11s}")
    reference = None
    for name in [PLAIN, *(args.names or [n for n in catalogue.names() if n != "dense"])]:
        command = [sys.executable, __file__, *sys.argv[1:], "--alone", name]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        reference = reference or found
        spent = found["forward"] if name == PLAIN else found["seconds"]
        row = f"{spent:9.2f}{spent / found['forward']:11.2f}{found['bytes'] / found['model']:14.2f}"
        share = f"  {found['share']:.2f} of the naive block forwards (goal 0.60)" if "share" in found else ""
        print(f"  {name:18s}{row}{found['bytes'] / reference['bytes']:11.2f}{share}", flush=True)


if __name__ == "__main__":
    main()
