"""How much the loss moves when one matrix does: ECoFLaP's zeroth-order importance, without any gradient."""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vlp_bench.models.offloading import present
from vlp_bench.pruning.checks import Compat
from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.said_once import warn_once
from vlp_bench.pruning.statistics.activation_cache import ActivationCache
from vlp_bench.pruning.statistics.calibration import Calibration

log = logging.getLogger(__name__)
KeepIn = Literal["memory", "disk"]
Losses = dict[str, list[tuple[float, float]]]  # per layer (loss at W + εz, loss at W - εz), one pair for each draw


def losses_around(
    calibration: Calibration,
    *,
    epsilon: float,
    draws: int,
    noises: int = 1,
    seed: int = 0,
    compat: Compat = "corrected",
    keep_in: KeepIn = "disk",
) -> Losses:
    """The loss on both sides of every matrix, along random directions z ~ N(0, I): `draws` pairs for each.

    Consecutive `noises` pairs share a batch; after the last batch the first comes again. Weights are bit-identical
    afterwards; one matrix is copied at a time. A block is computed anew where it meets something else than with the
    dense weights: what it gave for the batch with those is kept in memory, or on disk (`keep_in`). A step that the
    numbers of the pass are too coarse for is warned of.
    """
    _check_step(calibration, epsilon)
    seeds = noise_seeds(list(calibration.layers), draws, seed, compat)
    found: Losses = {name: [] for name in calibration.layers}
    done = 0
    with _folder(keep_in) as folder:
        replay = ActivationCache(calibration.model, calibration.layers.values(), folder)
        while done < draws:
            for loss in calibration.losses_of_batches(-(-(draws - done) // noises)):
                own = range(done, min(done + noises, draws))
                _both_sides(
                    calibration, loss, replay, epsilon, [{n: s[d] for n, s in seeds.items()} for d in own], found
                )
                done += len(own)
    naive = 2 * draws * len(seeds) * replay.whole
    log.info("%d calls of blocks for the losses around %d matrices; whole runs: %d", replay.calls, len(seeds), naive)
    return found


def _check_step(calibration: Calibration, epsilon: float) -> None:
    """Warns where numbers of the pass are rounded by more than epsilon: the losses then differ by rounding.

    Measured on four blocks whose shares of the importance are 15, 13, 14 and 58 %: with weights in bfloat16 and the
    loss in float32 an epsilon of 0.001 finds 22, 28, 17 and 33 %, one of 0.01 finds 16, 13, 14 and 58 %.
    """
    dtypes = [layer.weight.dtype for layer in calibration.layers.values()]
    dtypes += [torch.bfloat16] if calibration.precision == "bf16" else []
    rounding, dtype = max((torch.finfo(dtype).eps, str(dtype).removeprefix("torch.")) for dtype in dtypes)
    if rounding > epsilon:
        warn_once(
            log,
            calibration.model,
            f"losses in {dtype} are rounded by more than a step of epsilon={epsilon:g} moves them, and importances "
            f"are noise: use epsilon={10 ** math.ceil(math.log10(rounding)):g} at least, or float32",
        )


def noise_seeds(names: list[str], draws: int, seed: int, compat: Compat) -> dict[str, list[int]]:
    """One seed for every draw of every layer; official: the released code's stream, matrix by matrix."""
    if compat == "official":
        stream = np.random.RandomState(seed)
        return {name: [int(stream.randint(10**9)) for _ in range(draws)] for name in names}
    return {name: [zlib.crc32(f"{seed} {name} {draw}".encode()) for draw in range(draws)] for name in names}


def noise(layer: Layer, seed: int) -> Tensor:
    """z ~ N(0, I) in the shape of the parameter, from a generator on the processor that belongs to it alone."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(layer.weight.shape, generator=generator).to(layer.weight.device)


@contextmanager
def _folder(keep_in: KeepIn) -> Iterator[Path | None]:
    if keep_in == "memory":
        yield None
        return
    with TemporaryDirectory(prefix="vlp-bench-") as folder:
        yield Path(folder)


def _both_sides(
    calibration: Calibration,
    loss: Callable[[], float],
    replay: ActivationCache,
    epsilon: float,
    seeds: list[dict[str, int]],
    found: Losses,
) -> None:
    with replay.recording():
        reference = loss()
    if _replayed(loss, replay, None)() != reference:
        said = "the model's blocks do more than their outputs tell: every block is run every time"
        warn_once(log, calibration.model, said)
        replay.forget()
    for name, layer in calibration.layers.items():
        with present(calibration.model, [name]):
            found[name] += [_around(layer, _replayed(loss, replay, layer), epsilon, own[name]) for own in seeds]


def _replayed(loss: Callable[[], float], replay: ActivationCache, changed: Layer | None) -> Callable[[], float]:
    """The same loss without the blocks that a change of one layer can't reach."""

    def replayed() -> float:
        with replay.replaying(changed):
            return loss()

    return replayed


def _around(layer: Layer, loss: Callable[[], float], epsilon: float, seed: int) -> tuple[float, float]:
    """(L(W + εz), L(W - εz)); whatever happens, the weight is what it was, bit by bit."""
    weight = layer.weight.data
    before, step = weight.clone(), noise(layer, seed).mul_(epsilon)
    sides = []
    try:
        for sign in (1, -1):
            torch.add(before, step, alpha=sign, out=weight)  # in float32 at least, rounded once
            sides.append(loss())
    finally:
        weight.copy_(before)
    return sides[0], sides[1]
