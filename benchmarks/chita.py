"""CHITA: the solver against a straightforward one, and the memory that a run takes beside its model.

    python benchmarks/chita.py [--weights 2] [--batches 50] [--ridge 0.001] [--sparsity 0.9] [--rounds 3]
                               [--memory-gb 0.05] [--rows float32|bfloat16] [--stages 1]
    python benchmarks/chita.py --weights 184 --batches 16 --memory-gb 3 --stages 2 --rounds 0    # the paper's size

Goals: at least 3 times faster on one core than a program with one matrix of all rows, which gathers columns and sorts
for every block; at most 1e-6 of the mask's entries different; resident memory within `memory_gb` + 1 GB.
Gradients are random numbers here, drawn when they are asked for, and take no part in the comparison. CHITA++ is CHITA
in stages, each on the weights that the one before left (`--stages`).
"""

from __future__ import annotations

import argparse
import logging
import resource
import time
from collections.abc import Iterable, Iterator
from statistics import median
from typing import Any

import numpy as np
import torch
from support.measure import interleaved, ratio
from torch import Tensor, nn

from vlp_bench.pruning.schedule import exponential
from vlp_bench.pruning.solution import Solved
from vlp_bench.pruning.solvers.chita.rows import bytes_of, cut
from vlp_bench.pruning.solvers.chita.solver import Chita
from vlp_bench.pruning.statistics.calibration import Calibration

IMAGES, WIDTH = 64, 768


class Drawn(Calibration):
    """Answers with random gradients of unequal size, the same in every pass; never calls the model."""

    def __init__(self, model: nn.Module, batches: int, *, kept: bool, alive: Any = None) -> None:
        super().__init__(model, [], alive=alive)
        self.number = batches
        self.ready = list(self._drawn(self.layers)) if kept else None

    def _drawn(self, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
        numbers = {name: i for i, name in enumerate(self.layers)}
        for batch in range(self.number):
            own = {}
            for name in names:
                generator = torch.Generator().manual_seed(batch * len(numbers) + numbers[name])
                own[name] = torch.randn(self.layers[name].weight.shape, generator=generator).mul_(1e-2)
            yield own

    def subset(self, names: Iterable[str], **_: Any) -> Drawn:
        self.names = list(names)
        return self

    def count(self) -> tuple[int, int]:
        return self.number, IMAGES

    def gradients_of_batches(self, *, training: bool = False) -> Iterator[dict[str, Tensor]]:
        if self.ready is None:
            yield from self._drawn(self.names)
            return
        for own in self.ready:
            yield {name: own[name] for name in self.names}


def straightforward(calibration: Drawn, kept: int, ridge: float, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Mask and weights, flat: one matrix of all rows, a gather and a sort for every block, float64 inside."""
    w = np.concatenate([layer.weight.detach().numpy().ravel() for layer in calibration.layers.values()])
    rows = np.zeros((calibration.number, len(w)), dtype=np.float32)
    for row, own in zip(rows, calibration.subset(calibration.layers).gradients_of_batches(), strict=True):
        row[:] = torch.cat([gradient.flatten().clone() for gradient in own.values()]).numpy()
    linear = rows.sum(0) / np.float32(IMAGES)
    damping = calibration.number * ridge
    values = _step(rows, w, linear, w, rows @ w, damping, kept)
    start, offsets = 0, {}
    for name, layer in calibration.layers.items():
        offsets[name] = start
        start += layer.size
    for block in cut(calibration, block_size):
        index = np.arange(offsets[block.name] + block.start, offsets[block.name] + block.stop)
        k = int((values[index] != 0).sum())
        if not k:
            continue
        own = rows[:, index]
        target = own @ w[index]
        found = _step(own, values[index], linear[index], w[index], target, damping, k)
        support = np.argsort(-np.abs(found), kind="stable")[:k]
        chosen = own[:, support].astype(np.float64)
        right = chosen.T @ target + damping * w[index][support] - linear[index][support]
        small = np.linalg.inv(np.eye(len(chosen)) + chosen @ chosen.T / damping)
        exact = np.zeros_like(found)
        exact[support] = right / damping - chosen.T @ (small @ (chosen @ right)) / damping**2
        values[index] = exact
    return values != 0, values


def _step(
    rows: np.ndarray, b: np.ndarray, linear: np.ndarray, w: np.ndarray, target: np.ndarray, damping: float, k: int
) -> np.ndarray:
    order = np.argsort(-np.abs(b), kind="stable")
    support, rest = order[:k], order[k:]
    gradient = linear - rows.T @ (target - rows[:, support] @ b[support]) - np.float32(damping) * (w - b)
    if b is w:
        gradient = linear.copy()
    inside = np.zeros_like(gradient)
    inside[support] = gradient[support]
    length = (inside @ inside) / (((rows @ inside) ** 2).sum() + damping * (inside @ inside))
    moved = b - length * gradient
    assert len(rest) == 0 or np.abs(moved[support]).max() >= np.abs(moved[rest]).max() - 1e-10, "needs a line search"
    moved[rest] = 0
    return moved


def model_of(millions: float) -> nn.Sequential:
    """Layers of 768 x 768 normal weights."""
    torch.manual_seed(0)
    layers = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(max(1, round(millions * 1e6 / WIDTH**2)))))
    for layer in layers:
        assert isinstance(layer, nn.Linear)
        nn.init.normal_(layer.weight, std=0.02)
    return layers


def in_place(calibration: Drawn, solved: Solved) -> Drawn:
    """The next stage's start: the weights as they were left, and what is gone stays gone."""
    with torch.no_grad():
        for name, layer in calibration.layers.items():
            layer.weight.copy_(solved.weights[name])
    return Drawn(calibration.model, calibration.number, kept=False, alive=solved.masks)


def resident() -> float:
    """Resident memory now, in GB."""
    with open("/proc/self/statm") as status:
        return int(status.read().split()[1]) * resource.getpagesize() / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--weights", type=float, default=2, help="millions")
    parser.add_argument("--batches", type=int, default=50)
    parser.add_argument("--ridge", type=float, default=1e-3)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--rounds", type=int, default=3, help="0: memory only")
    parser.add_argument("--memory-gb", type=float, default=0.05, help="of the run whose memory is measured")
    parser.add_argument("--rows", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--stages", type=int, default=1, help="of the run whose memory is measured")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="  %(message)s")
    model = model_of(args.weights)
    settings = Chita(ridge=args.ridge, memory_gb=args.memory_gb, rows=args.rows)

    drawn = Drawn(model, args.batches, kept=False)
    kept = round((1 - args.sparsity) * drawn.total)
    print(f"{drawn.total / 1e6:.1f} M weights, {args.batches} rows, ridge {args.ridge}, {args.sparsity:.0%} removed")
    print(f"  memory, with {args.rows} rows of random numbers in place of {args.batches} batches' gradients:")
    before = resident()
    for stage, share in enumerate(exponential(args.sparsity, steps=args.stages), 1):
        started = time.perf_counter()
        drawn = in_place(drawn, settings(drawn, {"all": round((1 - share) * drawn.total)}))
        print(f"  stage {stage} of {args.stages}, to {share:.0%}: {time.perf_counter() - started:.0f} s")
    extra = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6 * 1.024 - before
    whole = args.batches * bytes_of(args.rows) * drawn.total / 1e9
    print(f"  all rows together are {whole:.1f} GB, the weights {4 * drawn.total / 1e9:.2f} GB")
    print(f"  memory_gb {args.memory_gb}: {extra:.2f} GB more resident than before (goal {args.memory_gb + 1:.2f})")
    if not args.rounds:
        return

    logging.disable()
    ready = Drawn(model_of(args.weights), args.batches, kept=True)
    answers: dict[str, Any] = {}

    def ours() -> None:
        answers["ours"] = Chita(ridge=args.ridge, memory_gb=1e3, rows=args.rows)(ready, {"all": kept})

    def plain() -> None:
        answers["plain"] = straightforward(ready, kept, args.ridge, 10_000)

    found = interleaved({"straightforward": plain, "this": ours}, args.rounds, warm_up=0)
    for name, spent in found.items():
        print(f"  {name:16s} {median(spent):8.2f} s")
    print(f"  {ratio(found['straightforward'], found['this']):.1f} times faster (goal 3)")
    mask = np.concatenate([m.numpy().ravel() for m in answers["ours"].masks.values()])
    values = np.concatenate([v.numpy().ravel() for v in answers["ours"].weights.values()])
    differ = int((mask != answers["plain"][0]).sum())
    off = np.linalg.norm(values - answers["plain"][1]) / np.linalg.norm(answers["plain"][1])
    print(f"  mask entries that differ: {differ} (goal {drawn.total / 1e6:.1f} or less); weights differ by {off:.1e}")


if __name__ == "__main__":
    main()
