"""What keeping zeros costs a training step: forward, backward, clipping, AdamW, with and without `KeepPruned`.

    python benchmarks/masked_step.py [--size small|narrow|paper] [--rows 4] [--rounds 7]

Three ways of taking a step: as it is; with four batches accumulated; in two processes (DDP over gloo, one thread each)
with two batches accumulated. On a GPU in bf16, and without the third. Goal: a ratio of at most 1.05 (CPU), 1.03 (GPU).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from support.measure import interleaved, ratio
from support.models import DEVICE, SIZES, batch, xvlm
from torch import Tensor, nn

import vlp_bench
from vlp_bench import KeepPruned

GOAL = 1.05 if DEVICE == "cpu" else 1.03
Spent = dict[str, list[float]]


class Loss(nn.Module):
    """The pre-training loss as a module's output, as DDP wants it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, content: vlp_bench.Batch) -> Tensor:
        return self.model.adapter.loss(self.model, content)


def step(loss: nn.Module, contents: list[vlp_bench.Batch], keeper: KeepPruned | None) -> Callable[[], None]:
    """One training step on accumulated batches, with the zeros kept or dense."""
    optimizer = torch.optim.AdamW(loss.parameters(), lr=1e-5, weight_decay=0.01, fused=True)

    def run() -> None:
        optimizer.zero_grad()
        for number, content in enumerate(contents, start=1):
            waiting: Any = getattr(loss, "no_sync", nullcontext) if number < len(contents) else nullcontext
            with waiting(), torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=DEVICE == "cuda"):
                (loss(content) / len(contents)).backward()
        if keeper is not None:
            keeper.mask_gradients()
        nn.utils.clip_grad_norm_(loss.parameters(), 1.0, foreach=True)
        optimizer.step()

    return run


def measure(size: str, rows: int, rounds: int, accumulated: int, wrap: Callable[[nn.Module], nn.Module]) -> Spent:
    """Seconds of dense and masked steps in turn."""
    contents = [batch(size, rows, seed) for seed in range(accumulated)]
    dense, sparse = xvlm(size).train(), xvlm(size)
    solution = vlp_bench.prune(sparse, "omp", 0.9)
    solution.install(sparse)
    keeper = KeepPruned(solution.masks).attach(sparse.train())
    steps = {
        "dense": step(wrap(Loss(dense)), contents, None),
        "masked": step(wrap(Loss(sparse)), contents, keeper),
    }
    found = interleaved(steps, rounds)
    keeper.verify("after the last step")
    return found


def in_a_process(rank: int, folder: str, size: str, rows: int, rounds: int) -> None:
    """One of two processes; the first leaves its seconds in a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)

    def wrap(loss: nn.Module) -> nn.Module:
        return nn.parallel.DistributedDataParallel(loss, find_unused_parameters=True)

    found = measure(size, rows, rounds, 2, wrap)
    if rank == 0:
        torch.save(found, os.path.join(folder, "found.pt"))
    dist.destroy_process_group()


def in_two_processes(size: str, rows: int, rounds: int) -> Spent:
    """What one of two DDP processes measures."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(in_a_process, (folder, size, rows, rounds), nprocs=2)
        return torch.load(os.path.join(folder, "found.pt"), weights_only=True)


def show(way: str, found: Spent) -> None:
    told = ", ".join(f"{name} {median(spent):.4f} s" for name, spent in found.items())
    print(
        f"  {way:32s} {told}; masked / dense = {ratio(found['masked'], found['dense']):.3f}  (goal {GOAL:.2f} or less)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--rows", type=int, default=4, help="image-caption pairs in a batch")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    given = (args.size, args.rows, args.rounds)
    print(f"XVLM {args.size}, {args.rows} pairs, {torch.get_num_threads()} thread(s), sparsity 0.9, gradients clipped")
    show("one batch", measure(*given, 1, lambda loss: loss))
    show("4 batches accumulated", measure(*given, 4, lambda loss: loss))
    if DEVICE == "cpu":
        show("2 processes, 2 batches", in_two_processes(*given))


if __name__ == "__main__":
    main()
