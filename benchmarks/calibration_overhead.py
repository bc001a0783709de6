"""What MULTIFLOW's statistics cost over a plain forward pass of the same batches; one pass serves all sparsities.

    python benchmarks/calibration_overhead.py [--size small|paper] [--rows 4] [--batches 2] [--rounds 5]

Goal: a ratio of at most 1.10, and no forward pass after the first.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from statistics import median

import torch
from support.measure import interleaved, ratio, seconds
from support.models import batch, xvlm

import vlp_bench
from vlp_bench import Batch, Calibration
from vlp_bench.pruning.adapter import adapter_for

GOAL = 1.10
SPARSITIES = [0.63, 0.75, 0.9]


class Counted(list[list[Batch]]):
    """Batches that count how often they are gone through."""

    passes = 0

    def __iter__(self) -> Iterator[list[Batch]]:
        self.passes += 1
        return super().__iter__()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=["small", "paper"], default="small")
    parser.add_argument("--rows", type=int, default=4, help="captions in each of the two parts of a batch")
    parser.add_argument("--batches", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    model = xvlm(args.size)
    parts = [
        [batch(args.size, args.rows, 2 * i), batch(args.size, args.rows, 2 * i + 1, region=True)]
        for i in range(args.batches)
    ]
    adapter = adapter_for(model)

    @torch.no_grad()
    def plain() -> None:
        for pair in parts:
            for part in pair:
                adapter.encode(model, part)

    found = interleaved({"plain": plain, "statistics": lambda: Calibration(model, parts).norms()}, args.rounds)
    print(f"XVLM {args.size}, {args.batches} batches of {args.rows} + {args.rows}, {torch.get_num_threads()} thread(s)")
    for name, spent in found.items():
        print(f"  {name:12s} {median(spent):8.3f} s")
    print(f"  statistics / plain forward = {ratio(found['statistics'], found['plain']):.3f}  (goal {GOAL:.2f} or less)")

    counted = Counted(parts)
    calibration = Calibration(model, counted)
    counted.passes = 0
    first = seconds(lambda: vlp_bench.prune(model, "multiflow", SPARSITIES[0], calibration))
    rest = seconds(lambda: vlp_bench.prune(model, "multiflow", SPARSITIES[1:], calibration))
    print(f"  first sparsity {first:.3f} s, two more {rest:.3f} s, calibration passes: {counted.passes}  (goal 1)")


if __name__ == "__main__":
    main()
