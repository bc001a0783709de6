"""How much the loss moves when one matrix does: ECoFLaP's zeroth-order importance, without any gradient."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from vlp_bench.pruning.calibration import Calibration
from vlp_bench.pruning.checks import Compat
from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.replay import Replay

log = logging.getLogger(__name__)
Losses = dict[str, list[tuple[float, float]]]  # per layer (loss at W + εz, loss at W - εz), one pair for each draw


def losses_around(
    calibration: Calibration,
    *,
    epsilon: float,
    draws: int,
    noises: int = 1,
    seed: int = 0,
    compat: Compat = "corrected",
) -> Losses:
    """The loss on both sides of every matrix, along random directions z ~ N(0, I): `draws` pairs for each.

    Consecutive `noises` pairs share a batch; after the last batch the first comes again. Weights are bit-identical
    afterwards; one matrix is copied at a time. Blocks before the perturbed one are computed once for each batch.
    """
    seeds = noise_seeds(list(calibration.layers), draws, seed, compat)
    found: Losses = {name: [] for name in calibration.layers}
    replay = Replay(calibration.model, calibration.layers)
    done = 0
    while done < draws:
        for loss in calibration.losses_of_batches(-(-(draws - done) // noises)):
            own = range(done, min(done + noises, draws))
            _both_sides(calibration, loss, replay, epsilon, [{n: s[d] for n, s in seeds.items()} for d in own], found)
            done += len(own)
    return found


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


def _both_sides(
    calibration: Calibration,
    loss: Callable[[], float],
    replay: Replay,
    epsilon: float,
    seeds: list[dict[str, int]],
    found: Losses,
) -> None:
    with replay.recording():
        reference = loss()
    if _shortened(loss, replay, max(replay.cuts.values(), default=0))() != reference:
        log.warning("the model's blocks do more than their outputs tell: every block is run every time")
        replay.cuts.clear()
    for name, layer in calibration.layers.items():
        rest = _shortened(loss, replay, replay.cuts.get(name, 0))
        found[name] += [_around(layer, rest, epsilon, own[name]) for own in seeds]


def _shortened(loss: Callable[[], float], replay: Replay, cut: int) -> Callable[[], float]:
    """The same loss with the first `cut` calls of blocks skipped."""

    def shortened() -> float:
        with replay.skipping(cut):
            return loss()

    return shortened


def _around(layer: Layer, loss: Callable[[], float], epsilon: float, seed: int) -> tuple[float, float]:
    """(L(W + εz), L(W - εz)); whatever happens, the weight is what it was, bit by bit."""
    weight = layer.weight.data
    before, step = weight.clone(), noise(layer, seed).mul_(epsilon)
    sides = []
    try:
        for sign in (1, -1):
            weight.copy_(torch.add(before.to(step.dtype), step, alpha=sign))
            sides.append(loss())
    finally:
        weight.copy_(before)
    return sides[0], sides[1]
