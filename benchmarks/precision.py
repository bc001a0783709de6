"""How far masks of faster passes are from those of float32, beside how far two draws of calibration data are apart.

    python benchmarks/precision.py [--exp xvlm_itr] [--benchmark world] [--sparsity 0.75] [PRUNER ...]

For every pruner that looks at data: masks of two draws in fp32, and of the first in bf16 (on a GPU in TF32 too). Two
masks disagree by 1 - |both| / |either| of what they keep. A precision will do where its disagreement is at most a tenth
of that of the draws: `vlp_bench.pruning.precision.FASTEST` holds what did. On a processor bf16 is autocast's, as on a
GPU; sums are made in another order there.
"""

from __future__ import annotations

import argparse
import tempfile

import torch

from vlp_bench.pruning.masks.overlap import Overlap, diff
from vlp_bench.pruning.solution import Solution
from vlp_bench.runs.device import root_device
from vlp_bench.runs.object_cache import ObjectCache
from vlp_bench.runs.prune_once import prune_once
from vlp_bench.sweeps.grid import Grid
from vlp_bench.sweeps.specifications import specifications

PRUNERS = ("multiflow", "wanda", "ria", "sparsegpt", "snip", "itersnip", "tamt", "chita", "chita_pp", "ecoflap",
           "ecoflap_first", "owl", "gblm", "wanda_pp", "obd")  # fmt: skip
SHARE = 0.1  # of what two draws disagree by


def found(objects: ObjectCache, words: tuple[str, ...], pruner: str, sparsity: float) -> Solution:
    """The mask that a command with these words would make."""
    [one] = specifications(Grid((pruner,), (sparsity,), (0,), 1, words))
    config = one.config
    data, model = objects.data(config, config["allow"]), objects.model(config, config["allow"])
    [pruned] = prune_once([one], model, data, root_device(config), fresh_statistics=True)
    return pruned.solution


def disagreement(one: Solution, other: Solution) -> float:
    """1 - |both| / |either| over all layers."""
    return 1 - sum(diff(one.masks, other.masks).values(), Overlap(0, 0, 0)).iou


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pruners", nargs="*", metavar="PRUNER", default=PRUNERS)
    parser.add_argument("--exp", default="xvlm_itr")
    parser.add_argument("--benchmark", default="world")
    parser.add_argument("--sparsity", type=float, default=0.75)
    args = parser.parse_args()
    faster = ("bf16", "tf32") if torch.cuda.is_available() else ("bf16",)
    objects = ObjectCache()
    with tempfile.TemporaryDirectory() as out:
        words = (f"+exp={args.exp}", f"benchmark={args.benchmark}", f"paths.out={out}")
        for pruner in args.pruners or PRUNERS:
            first, second = (
                found(objects, (*words, f"pruning_seed={draw}", "pruning_precision=fp32"), pruner, args.sparsity)
                for draw in (0, 1)
            )
            draws = disagreement(first, second)
            for precision in faster:
                own = found(objects, (*words, f"pruning_precision={precision}"), pruner, args.sparsity)
                apart = disagreement(first, own)
                will = "will do" if apart <= SHARE * draws else "will not do"
                print(f"{pruner:14s} draws {draws:.4f}  {precision} {apart:.4f}  {will}", flush=True)


if __name__ == "__main__":
    main()
