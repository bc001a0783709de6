"""Pairs a second of our XVLM and BLIP against plain transformers modules of the same shape, and peak memory.

    python benchmarks/throughput.py [--models xvlm blip] [--size small|paper] [--pixels 224 384] [--rows 2]
                                    [--rounds 4] [--bf16] [--compile] [--recompute]

Goal: a ratio of at least 1.0, forward and training step (forward, backward, AdamW).

What is compared: both towers and the fusion of pairs (XVLM), or vision, the encoder that reads the image and the
decoder with its word head (BLIP). The plain modules have our sizes and dropout, and share weights as MED does. Neither
side has momentum copies, queue, heads or losses: those have no counterpart in transformers. BLIP's vision there is
eager, for transformers has no other.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import torch
from support.measure import interleaved, ratio
from support.models import DEVICE, SIZES, batch
from support.plain import Pass, ours, plain
from torch import nn

from vlp_bench.batch import Batch
from vlp_bench.models.speed import prepare

GOAL = 1.0
WHO = {"ours": ours, "plain": plain}


def forward(net: nn.Module, run: Pass, content: Batch, bf16: bool) -> None:
    """As in evaluation: without gradients and dropout."""
    net.eval()
    with torch.no_grad(), torch.autocast(DEVICE, torch.bfloat16, enabled=bf16):
        run(content)


def step(net: nn.Module, run: Pass, content: Batch, bf16: bool) -> Callable[[], None]:
    """A training step, with dropout."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-6, fused=True)

    def take() -> None:
        net.train()
        optimizer.zero_grad()
        with torch.autocast(DEVICE, torch.bfloat16, enabled=bf16):
            said = run(content)
        said.float().square().mean().backward()
        optimizer.step()

    return take


def kinds(args: argparse.Namespace, name: str, pixels: int, who: str) -> dict[str, Callable[[], None]]:
    """`forward` and `step` of one of the two; ours compiled or recomputed if asked for."""
    net, run = WHO[who](name, args.size, pixels)
    if who == "ours":
        prepare(net, compiled=args.compile, recomputed=args.recompute)
    content = shown(args, pixels)
    return {"forward": partial(forward, net, run, content, args.bf16), "step": step(net, run, content, args.bf16)}


def shown(args: argparse.Namespace, pixels: int) -> Batch:
    """A batch of pairs at that many pixels."""
    content, draw = batch(args.size, args.rows, 0), torch.Generator().manual_seed(1)
    return replace(content, images=torch.randn(args.rows, 3, pixels, pixels, generator=draw).to(DEVICE))


def peak(args: argparse.Namespace, name: str, pixels: int, who: str) -> float:
    """MiB of two training steps: the device's where there is one, else of a process of its own."""
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        take = kinds(args, name, pixels, who)["step"]
        take()
        take()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    flags = [f"--{flag}" for flag in ("bf16", "compile", "recompute") if getattr(args, flag)]
    words = ["--models", name, "--pixels", str(pixels), "--size", args.size, "--rows", str(args.rows), *flags]
    told = subprocess.run(
        [sys.executable, __file__, *words, "--peak-of", who], check=True, capture_output=True, text=True
    )
    return float(told.stdout.split()[-1])


def resident() -> float:
    """MiB this process held at most. Linux hands a parent's ru_maxrss down to its children, but not VmHWM."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def compare(args: argparse.Namespace, name: str, pixels: int) -> None:
    """Both in turn, then their memory."""
    runs = {who: kinds(args, name, pixels, who) for who in WHO}
    for kind in ("forward", "step"):
        found = interleaved({who: runs[who][kind] for who in WHO}, args.rounds)
        pairs = {who: args.rows / median(spent) for who, spent in found.items()}
        faster = ratio(found["plain"], found["ours"])
        print(
            f"  {name} {pixels} px {kind:8s} ours {pairs['ours']:8.3f}  plain {pairs['plain']:8.3f} pairs/s  "
            f"ratio {faster:.3f}  (goal {GOAL:.1f} or more)"
        )
    del runs
    memory = {who: peak(args, name, pixels, who) for who in WHO}
    print(f"  {name} {pixels} px memory   ours {memory['ours']:8,.0f}  plain {memory['plain']:8,.0f} MiB at the peak")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=("xvlm", "blip"), default=["xvlm", "blip"])
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--pixels", nargs="+", type=int, default=[224, 384])
    parser.add_argument("--rows", type=int, default=2, help="pairs in a batch")
    parser.add_argument("--rounds", type=int, default=4, help="an even number: in odd rounds the other one goes first")
    for flag, what in (("bf16", "autocast"), ("compile", "compile our layers"), ("recompute", "recompute our layers")):
        parser.add_argument(f"--{flag}", action="store_true", help=what)
    parser.add_argument("--peak-of", choices=list(WHO), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak_of:
        take = kinds(args, args.models[0], args.pixels[0], args.peak_of)["step"]
        take()
        take()
        print(resident())
        return
    options = [flag for flag in ("bf16", "compile", "recompute") if getattr(args, flag)]
    print(f"{args.size} size, {args.rows} pairs, {DEVICE}, {torch.get_num_threads()} thread(s) {' '.join(options)}")
    for name in args.models:
        for pixels in args.pixels:
            compare(args, name, pixels)


if __name__ == "__main__":
    main()
