"""How scores are distributed, block by block, and where a mask cut them: |w|, and a pruner's own.

|w| is the score of OMP and half of MULTIFLOW's. Others need gradients or activations: they are computed
from what a run has stored beside its mask (`scores=true`).
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import nn

from vlp_bench.pruning.allocation.lamp import Lamp
from vlp_bench.pruning.another_sparsity import read, rebuilt
from vlp_bench.pruning.pruner import Pruner
from vlp_bench.pruning.scores import magnitude
from vlp_bench.pruning.scoring.cache import evaluate
from vlp_bench.pruning.solution import Solution
from vlp_bench.pruning.solvers.keep_top import KeepTop
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.sweep import is_at_once
from vlp_bench.pruning.weights_hash import hash_of
from vlp_bench.results.report.material import Mask

LEVELS = (5, 25, 50, 75, 95)
Weights = Mapping[str, np.ndarray]
"""By layer: its weights, or a score of each of them; shaped as stored."""


def own(solution: Solution, file: Path, model: nn.Module) -> dict[str, np.ndarray] | None:
    """Layer -> the score of each of its weights in the dense model.

    None where the score is |w|, or where the mask does not follow from one: solvers that change weights, several steps,
    block by block.

    Args:
        solution: of a mask file.
        file: the file of scores beside it.
        model: with the weights that were pruned.

    Raises:
        ValueError: the file is broken, or of other weights.
    """
    settings = solution.report.get("settings") or {}
    pruner = rebuilt(settings) if "_target_" in settings else None
    if not isinstance(pruner, Pruner) or not isinstance(pruner.solve, KeepTop):
        return None
    score = pruner.allocate.score if isinstance(pruner.allocate, Lamp) else pruner.solve.score  # the same order
    if getattr(score, "func", score) is magnitude or len(pruner.schedule(0.5)) > 1 or not is_at_once(pruner.sweep):
        return None
    stored = read(file)
    asked = pruner.focus(Calibration(model, None, num_batches=pruner.num_batches))
    if stored.weights != hash_of({name: layer.weight for name, layer in asked.layers.items()}):
        raise ValueError(f"{file} is of other weights than those the runs name")
    asked = asked.subset(asked.layers, stored=stored)
    found = {name: evaluate(score, layer, asked, pruner.solve.compat) for name, layer in asked.layers.items()}
    return {name: asked.layers[name].as_stored(score).float().numpy() for name, score in found.items()}


def quantiles(weights: Weights, blocks: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Block -> the 5, 25, 50, 75 and 95 % quantiles of |w| over its prunable weights; zeros are left out.

    A block of zeros alone is left out too.

    Raises:
        ValueError: a layer of the mask is not among the weights.
    """
    if missing := sorted(set(blocks) - set(weights)):
        raise ValueError(f"the model has no weight {missing[0]!r}: the mask is of another model")
    groups: dict[str, list[np.ndarray]] = {}
    for name, block in blocks.items():
        size = np.abs(weights[name]).reshape(-1)
        groups.setdefault(block, []).append(size[size > 0])
    whole = {block: np.concatenate(parts) for block, parts in groups.items()}
    return {block: np.percentile(values, LEVELS) for block, values in whole.items() if len(values)}


def threshold(weights: Weights, mask: Mask) -> float | None:
    """The smallest |w| a mask keeps, if it removes none that is larger; None if layers were cut at different sizes."""
    kept, removed = [], []
    for name, bits in mask.bits.items():
        size, keep = np.abs(weights[name]).reshape(-1), _unpacked(bits, weights[name].size)
        kept.append(size[keep].min(initial=np.inf))
        removed.append(size[~keep].max(initial=0))
    return float(min(kept)) if max(removed) <= min(kept) < np.inf else None


def _unpacked(bits: np.ndarray, count: int) -> np.ndarray:
    return np.unpackbits(bits, count=count).astype(bool)
