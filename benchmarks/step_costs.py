"""What pruners that work in steps do beside the gradients: IterSNIP's step, TAMT's threshold.

    python benchmarks/step_costs.py [--size tiny|small|paper] [--rows 4] [--steps 3] [itersnip|tamt ...]

IterSNIP: seconds of one step more, with gradients that are there already: fresh statistics, scores, one threshold,
masks, weights set to zero. Goal: 1 s for 184 million weights. TAMT: the thresholds' share of one step more, with real
gradients, from runs of one and of two batches of `rows` + `rows` captions. Goal: at most 5 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from support.measure import seconds
from support.models import SIZES, pairs, xvlm

import vlp_bench
from vlp_bench.models.xvlm.model import XVLM
from vlp_bench.pruning.solvers.train_masks import TrainMasks
from vlp_bench.pruning.statistics.calibration import Calibration


def itersnip(model: XVLM, args: argparse.Namespace) -> None:
    """One step more, of runs with one and with `--steps` more."""
    calibration = Calibration(model, pairs("tiny", 2, 1))
    gradients = {name: torch.randn_like(layer.matrix) for name, layer in calibration.layers.items()}

    def run(steps: int) -> None:
        options = {"steps": steps, "batches_per_step": None}
        vlp_bench.prune(model, "itersnip", 0.9, calibration, options=options)

    with patch.object(Calibration, "gradients", lambda self: gradients):
        run(2)
        few, many = seconds(lambda: run(2)), seconds(lambda: run(2 + args.steps))
    print(f"  itersnip: {(many - few) / args.steps:.3f} s for {calibration.total / 1e6:.1f} million weights  (goal 1)")


def tamt(model: XVLM, args: argparse.Namespace) -> None:
    """The last step's thresholds, and the difference between two steps and one."""
    masks, spent = TrainMasks._masks, list[float]()

    def timed(self: TrainMasks, *given: Any) -> Any:
        found: list[Any] = []
        spent.append(seconds(lambda: found.append(masks(self, *given))))
        return found[0]

    with patch.object(TrainMasks, "_masks", timed):
        one, two = (
            seconds(lambda n=n: vlp_bench.prune(model, "tamt", 0.9, pairs(args.size, args.rows, n))) for n in (1, 2)
        )
    step = two - one
    print(f"  tamt: thresholds {spent[-1]:.3f} s of {step:.2f} s a step: {spent[-1] / step:.3f}  (goal 0.05)")


METHODS: dict[str, Callable[[XVLM, argparse.Namespace], None]] = {"itersnip": itersnip, "tamt": tamt}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(METHODS))
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--rows", type=int, default=4, help="captions in each of the two parts of a batch")
    parser.add_argument("--steps", type=int, default=3)
    args = parser.parse_args()
    print(f"XVLM {args.size}, {args.rows} + {args.rows} captions, {torch.get_num_threads()} thread(s)")
    model = xvlm(args.size)
    for name in args.names or METHODS:
        METHODS[name](model, args)


if __name__ == "__main__":
    main()
