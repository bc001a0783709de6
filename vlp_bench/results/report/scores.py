"""How the magnitudes of the pre-trained weights are distributed, block by block, and where a mask cut them.

|w| is the score of OMP and half of MULTIFLOW's and Wanda's. Other scores need gradients or activations.
"""

from collections.abc import Mapping

import numpy as np

from vlp_bench.results.report.material import Mask

LEVELS = (5, 25, 50, 75, 95)
Weights = Mapping[str, np.ndarray]


def quantiles(weights: Weights, blocks: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Block -> the 5, 25, 50, 75 and 95 % quantiles of |w| over its prunable weights; zeros are left out.

    Raises:
        ValueError: a layer of the mask is not among the weights.
    """
    if missing := sorted(set(blocks) - set(weights)):
        raise ValueError(f"the model has no weight {missing[0]!r}: the mask is of another model")
    groups: dict[str, list[np.ndarray]] = {}
    for name, block in blocks.items():
        size = np.abs(weights[name]).reshape(-1)
        groups.setdefault(block, []).append(size[size > 0])
    return {block: np.percentile(np.concatenate(parts), LEVELS) for block, parts in groups.items()}


def threshold(weights: Weights, mask: Mask) -> float:
    """The smallest |w| a mask keeps in any layer: OMP's threshold, where the mask is OMP's."""
    kept = (np.abs(weights[name]).reshape(-1)[_unpacked(bits, weights[name].size)] for name, bits in mask.bits.items())
    return float(min(values.min() for values in kept if len(values)))


def _unpacked(bits: np.ndarray, count: int) -> np.ndarray:
    return np.unpackbits(bits, count=count).astype(bool)
