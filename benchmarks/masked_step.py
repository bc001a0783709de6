"""What keeping zeros costs a training step: forward, backward, clipping, AdamW, with and without `KeepPruned`.

    python benchmarks/masked_step.py [--size small|narrow|paper] [--rows 4] [--rounds 7] [--only bf16]

Ways of taking a step: as it is; with four batches accumulated; in two processes (DDP over gloo, one thread each) with
two batches accumulated. All clip the gradients, and all come in fp32 and in mixed precision (bf16); on a GPU in bf16
alone, in one process. Goal: a ratio of at most 1.05 (CPU), 1.03 (GPU).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from support.measure import interleaved, ratio
from support.models import DEVICE, SIZES, batch, xvlm
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

import vlp_bench
from vlp_bench import KeepPruned

GOAL = 1.05 if DEVICE == "cpu" else 1.03
Spent = dict[str, list[float]]


@dataclass(frozen=True)
class Way:
    """How a step is taken: from how many batches, in how many processes, in which precision."""

    batches: int = 1
    processes: int = 1
    bf16: bool = DEVICE == "cuda"

    def __str__(self) -> str:
        how = "bf16" if self.bf16 else "fp32"
        shared = f", {self.processes} processes" if self.processes > 1 else ""
        return f"{how}, {self.batches} batch{'es' * (self.batches > 1)}{shared}"


WAYS = [
    Way(batches, processes, bf16)
    for bf16 in ((True,) if DEVICE == "cuda" else (False, True))
    for batches, processes in ((1, 1), (4, 1), *([(2, 2)] if DEVICE == "cpu" else []))
]


class Loss(nn.Module):
    """The pre-training loss as a module's output, as DDP wants it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, content: vlp_bench.Batch) -> Tensor:
        return self.model.adapter.loss(self.model, content)


def step(
    loss: nn.Module, contents: list[vlp_bench.Batch], keeper: KeepPruned | None, *, bf16: bool
) -> Callable[[], None]:
    """One training step on accumulated batches, with the zeros kept or dense."""
    optimizer = torch.optim.AdamW(loss.parameters(), lr=1e-5, weight_decay=0.01, fused=True)

    def run() -> None:
        optimizer.zero_grad()
        for number, content in enumerate(contents, start=1):
            waiting: Any = getattr(loss, "no_sync", nullcontext) if number < len(contents) else nullcontext
            with waiting(), torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=bf16):
                (loss(content) / len(contents)).backward()
        if keeper is not None:
            keeper.mask_gradients()
        nn.utils.clip_grad_norm_(loss.parameters(), 1.0, foreach=True)
        optimizer.step()

    return run


def measure(size: str, rows: int, rounds: int, way: Way) -> Spent:
    """Seconds of dense and masked steps in turn."""

    def wrap(loss: nn.Module) -> nn.Module:
        several = way.processes > 1
        return nn.parallel.DistributedDataParallel(loss, find_unused_parameters=True) if several else loss

    contents = [batch(size, rows, seed) for seed in range(way.batches)]
    dense, sparse = xvlm(size).train(), xvlm(size)
    solution: Any = vlp_bench.prune(sparse, "omp", 0.9)
    solution.install(sparse)
    keeper = KeepPruned(solution.masks).attach(sparse.train())
    steps = {
        "dense": step(wrap(Loss(dense)), contents, None, bf16=way.bf16),
        "masked": step(wrap(Loss(sparse)), contents, keeper, bf16=way.bf16),
    }
    found = interleaved(steps, rounds)
    keeper.verify("after the last step")
    return found


def in_a_process(rank: int, folder: str, size: str, rows: int, rounds: int, way: Way) -> None:
    """One of several processes; the first leaves its seconds in a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=way.processes)
    found = measure(size, rows, rounds, way)
    if rank == 0:
        torch.save(found, os.path.join(folder, "found.pt"))
    dist.destroy_process_group()


def in_processes(size: str, rows: int, rounds: int, way: Way) -> Spent:
    """What the first of the DDP processes measures."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(in_a_process, (folder, size, rows, rounds, way), nprocs=way.processes)
        return torch.load(os.path.join(folder, "found.pt"), weights_only=True)


def show(way: Way, found: Spent) -> None:
    told = ", ".join(f"{name} {median(spent):.4f} s" for name, spent in found.items())
    found_ratio = ratio(found["masked"], found["dense"])
    print(f"  {way!s:30s} {told}; masked / dense = {found_ratio:.3f}  (goal {GOAL:.2f} or less)")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--rows", type=int, default=4, help="image-caption pairs in a batch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="ways whose name holds this: fp32, bf16, '4 batches', processes")
    args = parser.parse_args()
    given = (args.size, args.rows, args.rounds)
    print(f"XVLM {args.size}, {args.rows} pairs, {torch.get_num_threads()} thread(s), sparsity 0.9, gradients clipped")
    for way in WAYS:
        if args.only in str(way):
            show(way, (in_processes if way.processes > 1 else measure)(*given, way))


if __name__ == "__main__":
    main()
