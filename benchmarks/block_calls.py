"""Whole calls of `prune` block by block, beside the published algorithms and beside plain forward passes.

    python -m benchmarks.block_calls [--rounds 3] [--threads 1] [--json rows.jsonl] [NAME ...]

`block_wanda` and `block_sparsegpt` prune a stack of Llama's blocks (width 1,024, feed-forward 2,816, two of them,
random weights, 16 sequences of 256 tokens) at one half; the baseline is written here from the papers and their released
loops: catch what reaches the first block, run every sample through a block twice, hooks on every layer, SparseGPT's
products and factors for every layer, in float32. It ruins the model; ours gives masks, and new weights, beside the
model as it was, and these count in its peak. `passes` counts what Wanda costs on twelve narrower blocks in plain
forward passes over the calibration set, 128 sequences as in the papers; its ratio is to stay below its goal. Seconds
are of the processor (of the clock with several threads), both sides in turn; peaks are of a process for each side, on
top of the model and the data.

Goals: 1.5 times as fast as the published algorithms with at most 1.5 times their memory; at most 2.2 forward passes.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel

import vlp_bench
from benchmarks.support.checkout import commit
from benchmarks.support.measure import alone, peak, ratio, seconds
from benchmarks.support.rows import command_line, perform
from vlp_bench.runs.provenance import processor

GIB = 2.0**30
Masks = dict[str, Tensor]
Batches = list[dict[str, Tensor]]
HALF = 0.5


def stack(layers: int, width: int, feed_forward: int) -> LlamaModel:
    """Llama's blocks with random weights, float32."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": width, "intermediate_size": feed_forward, "num_hidden_layers": layers}
    return LlamaModel(LlamaConfig(vocab_size=512, num_attention_heads=width // 64, use_cache=False, **sizes)).eval()


def tokens(rows: int, length: int, batches: int) -> Batches:
    """Random words, no padding."""
    generator = torch.Generator().manual_seed(1)
    return [{"input_ids": torch.randint(512, (rows, length), generator=generator)} for _ in range(batches)]


# The published algorithms


class Caught(Exception):
    """The first block was reached."""


@torch.no_grad()
def reaching(model: Any, batches: Batches) -> tuple[list[Tensor], dict[str, Any]]:
    """What the first block gets of every batch, and its other arguments."""
    found: list[Tensor] = []
    others: dict[str, Any] = {}

    def hook(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        found.append(args[0] if args else kwargs.pop("hidden_states"))
        others.update(kwargs)
        raise Caught

    handle = model.layers[0].register_forward_pre_hook(hook, with_kwargs=True)
    for batch in batches:
        try:
            model(**batch)
        except Caught:
            continue
    handle.remove()
    return found, others


class Lengths:
    """Wanda's statistic: the mean over samples of the squares of what reaches a layer."""

    def __init__(self, layer: nn.Linear) -> None:
        self.mean, self.samples = torch.zeros(layer.in_features), 0

    def see(self, x: Tensor) -> None:
        rows = len(x)
        flat = x.reshape(-1, x.shape[-1]).t()
        self.mean *= self.samples / (self.samples + rows)
        self.samples += rows
        self.mean += torch.norm(flat.float(), p=2, dim=1) ** 2 / self.samples

    @torch.no_grad()
    def prune(self, layer: nn.Linear) -> Tensor:
        metric = layer.weight.abs() * self.mean.sqrt().reshape(1, -1)
        order = metric.sort(dim=-1, stable=True).indices[:, : int(metric.shape[1] * HALF)]
        mask = torch.ones_like(metric, dtype=torch.bool).scatter_(1, order, False)
        layer.weight[~mask] = 0
        return mask


class Products:
    """SparseGPT's statistic and its sweep over columns, 128 at a time, damping 0.01."""

    def __init__(self, layer: nn.Linear) -> None:
        self.products, self.samples = torch.zeros(layer.in_features, layer.in_features), 0

    def see(self, x: Tensor) -> None:
        rows = len(x)
        flat = x.reshape(-1, x.shape[-1]).t()
        self.products *= self.samples / (self.samples + rows)
        self.samples += rows
        flat = math.sqrt(2 / self.samples) * flat.float()
        self.products += flat.matmul(flat.t())

    @torch.no_grad()
    def prune(self, layer: nn.Linear, width: int = 128) -> Tensor:
        weight, hessian = layer.weight.clone(), self.products
        self.products = torch.empty(0)
        dead = torch.diag(hessian) == 0
        hessian[dead, dead] = 1
        weight[:, dead] = 0
        diagonal = torch.arange(len(hessian))
        hessian[diagonal, diagonal] += 0.01 * torch.mean(torch.diag(hessian))
        hessian = torch.linalg.cholesky(hessian)
        hessian = torch.cholesky_inverse(hessian)
        factor = torch.linalg.cholesky(hessian, upper=True)
        mask = torch.ones_like(weight, dtype=torch.bool)
        for start in range(0, weight.shape[1], width):
            stop = min(start + width, weight.shape[1])
            part, result = weight[:, start:stop].clone(), torch.zeros_like(weight[:, start:stop])
            errors, own = torch.zeros_like(part), factor[start:stop, start:stop]
            scores = part**2 / torch.diag(own).reshape(1, -1) ** 2
            threshold = scores.flatten().sort().values[int(scores.numel() * HALF)]
            goes = scores <= threshold
            for column in range(stop - start):
                w, d = part[:, column], own[column, column]
                kept = w.clone()
                kept[goes[:, column]] = 0
                result[:, column] = kept
                error = (w - kept) / d
                part[:, column:] -= error.unsqueeze(1).matmul(own[column, column:].unsqueeze(0))
                errors[:, column] = error
            weight[:, start:stop] = result
            mask[:, start:stop] = ~goes
            weight[:, stop:] -= errors.matmul(factor[start:stop, stop:])
        layer.weight.copy_(weight)
        return mask


@torch.no_grad()
def published(model: Any, batches: Batches, kind: type[Lengths] | type[Products]) -> Masks:
    """Block by block: look, prune, run again for what the next block gets."""
    inputs, others = reaching(model, batches)
    masks: Masks = {}
    for number, block in enumerate(model.layers):
        layers = {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear)}
        watched = {name: kind(layer) for name, layer in layers.items()}
        handles = [
            layer.register_forward_hook(lambda _, args, __, own=watched[name]: own.see(args[0].data))
            for name, layer in layers.items()
        ]
        for x in inputs:
            block(x, **others)
        for handle in handles:
            handle.remove()
        for name, layer in layers.items():
            masks[f"layers.{number}.{name}.weight"] = watched.pop(name).prune(layer)
        inputs = [_first(block(x, **others)) for x in inputs]
    return masks


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


# Both sides


def ours(model: LlamaModel, batches: Batches, pruner: str) -> Masks:
    """One call."""
    return vlp_bench.prune(model, pruner, HALF, batches).masks


@torch.no_grad()
def forwards(model: LlamaModel, batches: Batches) -> Masks:
    """The calibration set once."""
    for batch in batches:
        model(**batch)
    return {}


@dataclass(frozen=True)
class Work:
    """One row: sizes of the stack and of the data, our pruner, and what it is compared with."""

    name: str
    pruner: str
    sizes: tuple[int, int, int]
    data: tuple[int, int, int]
    baseline: str
    other: Callable[[LlamaModel, Batches], Masks]
    goal: float
    at_most: bool = False


LLAMA, SEQUENCES = (2, 1024, 2816), (1, 256, 16)
ROWS = {
    "block_wanda": Work("Wanda, Llama's blocks", "wanda", LLAMA, SEQUENCES, "the published loop",
                        lambda m, b: published(m, b, Lengths), 1.5),
    "block_sparsegpt": Work("SparseGPT, Llama's blocks", "sparsegpt", LLAMA, SEQUENCES, "the published loop",
                            lambda m, b: published(m, b, Products), 1.5),
    "passes": Work("Wanda, twelve blocks", "wanda", (12, 384, 1536), (8, 128, 16), "plain forward passes",
                   forwards, 2.2, at_most=True),
}  # fmt: skip


def prepared(work: Work) -> tuple[LlamaModel, Batches]:
    """The model and the data."""
    return stack(*work.sizes), tokens(*work.data)


def compare(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of both sides in turn, then a process for each one's peak."""
    work = ROWS[name]
    given = ["--rounds", str(args.rounds), "--threads", str(args.threads), "--alone"]
    timed = alone("-m", "benchmarks.block_calls", *given, f"{name}/")
    sides = ("ours", work.baseline)
    peaks = {side: alone("-m", "benchmarks.block_calls", *given, f"{name}/{side}")["peak"] for side in sides}
    own, other = (timed["seconds"][side] for side in sides)
    layers, width, feed_forward = work.sizes
    return {
        "row": name,
        "table": "whole call",
        "work": work.name,
        "baseline": work.baseline,
        "ratio": round(ratio(own, other) if work.at_most else ratio(other, own), 2),
        "goal": work.goal,
        "at_most": work.at_most,
        "seconds": {side: round(median(spent), 3) for side, spent in timed["seconds"].items()},
        "peak_gib": {side: round(bytes_ / GIB, 3) for side, bytes_ in peaks.items()},
        "memory_ratio": None if work.at_most else round(peaks["ours"] / max(peaks[work.baseline], 1), 2),
        "masks_differ": timed["differ"],
        "weights_millions": round(timed["weights"] / 1e6, 1),
        "model": f"{layers} blocks of {width} and {feed_forward}",
        "threads": args.threads,
        "rounds": args.rounds,
        "machine": processor(),
        "torch": torch.__version__,
        "commit": commit(),
        "load": round(os.getloadavg()[0], 1),
    }


def measure(alone_: str, args: argparse.Namespace) -> dict[str, Any]:
    """In a process of its own: the times of both sides of a row, or the peak of one."""
    name, _, side = alone_.partition("/")
    work = ROWS[name]
    model, batches = prepared(work)
    sides = {"ours": lambda m, b: ours(m, b, work.pruner), work.baseline: work.other}
    small = stack(1, 64, 64)
    for run in sides.values():  # what a first call imports
        run(small, tokens(1, 4, 1))
    if side:
        before = peak()
        sides[side](model, batches)
        return {"peak": peak() - before}
    state = {key: value.clone() for key, value in model.state_dict().items()}
    watch = seconds if args.threads == 1 else _by_clock
    spent: dict[str, list[float]] = {own: [] for own in sides}
    masks: dict[str, Masks] = {}
    for number in range(args.rounds):
        for own in list(sides) if number % 2 == 0 else reversed(list(sides)):
            spent[own].append(watch(lambda own=own: masks.update({own: sides[own](model, batches)})))
            model.load_state_dict(state)
    weights = sum(mask.numel() for mask in masks["ours"].values())
    return {"seconds": spent, "differ": differences(masks["ours"], masks[work.baseline]), "weights": weights}


def _by_clock(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def differences(one: Masks, other: Masks) -> int:
    """Entries that are not the same, of the layers that both have."""
    return sum(int((mask != other[name]).sum()) for name, mask in one.items() if name in other)


def say(row: dict[str, Any]) -> str:
    """A row of the table in words."""
    times = ", ".join(
        f"{side} {spent:.2f} s ({row['peak_gib'][side]:.3f} GiB)" for side, spent in row["seconds"].items()
    )
    how = f"{row['ratio']:.2f}" if row["at_most"] else f"{row['ratio']:.2f} times as fast as"
    against = f"{row['work']}: {how} {row['baseline']} (goal {'at most ' * row['at_most']}{row['goal']:g})"
    memory = "" if row["memory_ratio"] is None else f"; memory {row['memory_ratio']:.2f} times"
    return f"  {against}; {times}{memory}; {row['masks_differ']} entries differ"


def main(argv: Sequence[str] | None = None) -> None:
    perform(command_line(__doc__, ROWS).parse_args(argv), "Llama's blocks", ROWS, measure, compare, say)


if __name__ == "__main__":
    sys.exit(main())
