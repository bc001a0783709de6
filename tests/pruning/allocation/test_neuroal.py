import numpy as np
import pytest
import torch
from torch import nn

from tests.models.tiny import xvlm
from tests.pruning.solvers.test_regional import Block, kept
from vlp_bench.pruning.allocation.neuroal import NeuroAL, relative_change
from vlp_bench.pruning.scores import magnitude
from vlp_bench.pruning.solvers.keep_top import KeepTop
from vlp_bench.pruning.statistics.calibration import Calibration

PRUNES = KeepTop(magnitude, "output")


def test_change_by_hand():
    """Shares (.75, .25) and (.5, .5) differ by .25 twice: √.125 over two features."""
    before, after = torch.tensor([6.0, 2.0], dtype=torch.float64), torch.tensor([1.0, 1.0], dtype=torch.float64)
    assert relative_change(before, after) == pytest.approx(0.125**0.5 / 2)
    assert relative_change(before, 7 * before) == 0
    assert relative_change(before, 0 * before) == pytest.approx((0.75**2 + 0.25**2) ** 0.5 / 2)


def blocks(depth=2, seed=4):
    torch.manual_seed(seed)
    return nn.Sequential(*(Block() for _ in range(depth))).double(), [torch.randn(6, 4, dtype=torch.float64)]


def test_change_is_that_of_a_transcription():
    """Blocks in turn; within each the dense and the sparse lengths, from what the sparse blocks before it give."""
    model, (x,) = blocks()
    expected, now = 0.0, x.numpy()
    for block in model:
        w1, w2 = (layer.weight.detach().numpy() for layer in (block.fc1, block.fc2))
        dense, sparse = (np.maximum(now @ w.T, 0) for w in (w1, w1 * kept(w1)))
        a, b = (np.sqrt((hidden**2).sum(0)) for hidden in (dense, sparse))
        expected += np.linalg.norm(a / a.sum() - b / b.sum()) / len(a)
        now = sparse @ (w2 * kept(w2)).T
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    calibration = Calibration(model, [x])
    halves = {name: layer.size // 2 for name, layer in calibration.layers.items()}
    assert NeuroAL(solve=PRUNES).change(calibration, halves) == pytest.approx(expected, rel=1e-6)
    assert all(p.equal(before[name]) for name, p in model.named_parameters())


def test_the_spread_of_the_least_change_is_taken():
    model, batches = blocks(3)
    calibration = Calibration(model, batches)
    allocate = NeuroAL(solve=PRUNES, spreads=(0.02, 0.1, 0.2))
    each = [NeuroAL(solve=PRUNES, spreads=(width,))(calibration, 0.5) for width in allocate.spreads]
    changes = [allocate.change(calibration, budgets) for budgets in each]
    assert allocate(calibration, 0.5) == each[int(np.argmin(changes))]
    assert len(set(changes)) == 3


def test_earlier_blocks_stay_denser():
    model, batches = blocks(3)
    found = NeuroAL(solve=PRUNES, spreads=(0.1,))(Calibration(model, batches), 0.5)
    shares = [sum(found[f"{i}.fc{j}.weight"] for j in (1, 2)) / 48 for i in range(3)]
    assert shares == pytest.approx([0.6, 0.5, 0.4], abs=0.02)


def test_depth_is_counted_within_each_modality():
    calibration = Calibration(xvlm.model().eval(), xvlm.batches())
    found = NeuroAL(solve=PRUNES, spreads=(0.1,))(calibration, 0.5)
    first = {}
    for name, layer in calibration.layers.items():
        first.setdefault(layer.place.modality, (layer.place.block, []))
        if layer.place.block == first[layer.place.modality][0]:
            first[layer.place.modality][1].append(found[name] / layer.size)
    densest = [sum(own) / len(own) for _, own in first.values()]
    assert densest == pytest.approx([max(densest)] * len(densest), abs=0.02)
    assert max(densest) > 0.54
    assert sum(found.values()) == round(0.5 * calibration.total)


def test_from_80_percent_on_the_last_spread_is_left_out():
    model, batches = blocks()
    calibration = Calibration(model, batches)
    wide, narrow = NeuroAL(solve=PRUNES, spreads=(0.1, 0.9)), NeuroAL(solve=PRUNES, spreads=(0.1,))
    assert wide(calibration, 0.8) == narrow(calibration, 0.8)


def test_it_is_tried_on_the_first_batches_alone():
    model, (x,) = blocks(3)
    one, more = (Calibration(model, batches) for batches in ([x], [x, 100 * x.flip(1)]))
    allocate = NeuroAL(solve=PRUNES)
    assert allocate(one, 0.5) == allocate(more, 0.5)
    assert more.num_batches is None


@pytest.mark.parametrize(
    "options, said",
    [
        ({"spreads": ()}, r"spreads must be one or more numbers of at least 0, got \[\]"),
        ({"spreads": (0.1, -0.1)}, r"spreads must be one or more numbers of at least 0, got \[0.1, -0.1\]"),
        ({"batches": 0}, "batches must be at least 1, got 0"),
    ],
)
def test_what_is_refused(options, said):
    with pytest.raises(ValueError, match=f"^{said}$"):
        NeuroAL(solve=PRUNES, **options)
