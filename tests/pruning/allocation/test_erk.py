import numpy as np
from torch import nn

from vlp_bench.pruning.allocation.erk import ERK
from vlp_bench.pruning.statistics.calibration import Calibration


def densities(sizes, sparsity):
    """ε (d_in + d_out) / (d_in d_out) by Evci's own way: whoever would exceed 1 is dense, the rest is solved again."""
    shapes = np.array(sizes, dtype=np.float64)
    counts, raw = shapes.prod(1), shapes.sum(1) / shapes.prod(1)
    dense = np.zeros(len(sizes), dtype=bool)
    while True:
        scale = ((1 - sparsity) * counts.sum() - counts[dense].sum()) / (raw * counts)[~dense].sum()
        over = ~dense & (scale * raw > 1)
        if not over.any():
            return np.where(dense, 1.0, scale * raw)
        dense[np.argmax(np.where(over, raw, 0))] = True


def test_small_layers_stay_denser_and_full_ones_hand_on_the_rest():
    sizes = [(40, 30), (30, 30), (2, 30), (2, 2)]
    model = nn.Sequential(*(nn.Linear(d_in, d_out) for d_out, d_in in sizes))
    calibration = Calibration(model)
    for sparsity in (0.1, 0.5, 0.75, 0.97):
        kept = ERK()(calibration, sparsity)
        assert sum(kept.values()) == round((1 - sparsity) * calibration.total)
        expected = densities([tuple(layer.matrix.shape) for layer in calibration.layers.values()], sparsity)
        for share, (name, layer) in zip(expected, calibration.layers.items(), strict=True):
            assert abs(kept[name] - share * layer.size) <= 1


def test_by_hand():
    """Counts as (4 + 4) to (2 + 4): of 12 they are 6.86 and 5.14."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    assert ERK()(Calibration(model), 0.5) == {"0.weight": 7, "1.weight": 5}
