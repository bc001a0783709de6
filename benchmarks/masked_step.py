"""What keeping zeros costs a training step: forward, backward, AdamW, with and without `KeepPruned`.

    python benchmarks/masked_step.py [--size small|paper] [--rows 4] [--rounds 7]

Goal: a ratio of at most 1.05.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median

import torch
from support.measure import interleaved, ratio
from support.models import DEVICE, batch, xvlm
from torch import nn

import vlp_bench
from vlp_bench import KeepPruned

GOAL = 1.05


def step(model: nn.Module, content: vlp_bench.Batch, keeper: KeepPruned | None) -> Callable[[], None]:
    """One training step of the model, with the zeros kept or dense."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.01, fused=True)

    def run() -> None:
        optimizer.zero_grad()
        with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=DEVICE == "cuda"):
            model.adapter.loss(model, content).backward()
        if keeper is not None:
            keeper.mask_gradients()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=["small", "paper"], default="small")
    parser.add_argument("--rows", type=int, default=4, help="image-caption pairs in a batch")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    content = batch(args.size, args.rows, 0)
    dense, sparse = xvlm(args.size).train(), xvlm(args.size)
    solution = vlp_bench.prune(sparse, "omp", 0.9)
    solution.install(sparse)
    keeper = KeepPruned(solution.masks).attach(sparse.train())
    found = interleaved({"dense": step(dense, content, None), "masked": step(sparse, content, keeper)}, args.rounds)
    keeper.verify("after the last step")
    print(f"XVLM {args.size}, {args.rows} pairs, {torch.get_num_threads()} thread(s), sparsity {solution.sparsity:.3f}")
    for name, spent in found.items():
        print(f"  {name:7s} {median(spent):8.4f} s per step")
    print(f"  masked / dense = {ratio(found['masked'], found['dense']):.3f}  (goal {GOAL:.2f} or less)")


if __name__ == "__main__":
    main()
