import pytest
import torch
from torch import nn

from vlp_bench.pruning.allocation import lamp as module
from vlp_bench.pruning.allocation.global_threshold import GlobalThreshold
from vlp_bench.pruning.allocation.lamp import Lamp
from vlp_bench.pruning.scores import ascending_shares_of_rest, lamp, magnitude, share_of_rest
from vlp_bench.pruning.scoring.cache import hints_of
from vlp_bench.pruning.selection import across_layers as many_layers
from vlp_bench.pruning.solvers.keep_top import KeepTop
from vlp_bench.pruning.statistics.calibration import Calibration

KINDS = {
    "normal": lambda w: w,
    "coarse": lambda w: (w * 50).round() / 50,
    "equal": lambda w: torch.full_like(w, 0.3),
    "one bin": lambda w: 1 + w.abs() * 1e-4,
    "wide": lambda w: w.sign() * 10 ** (w * 8).clamp(-18, 18),
    "half zero": lambda w: w * (w > 0),
    "double": lambda w: w.double(),
}


def calibration(kind):
    """Four layers of different sizes and scales."""
    generator = torch.Generator().manual_seed(5)
    model = nn.Sequential()
    for shape, scale in zip([(40, 30), (1, 3), (200, 50), (64, 8)], [1.0, 3.0, 0.02, 1e-3], strict=True):
        layer = nn.Linear(shape[1], shape[0], bias=False)
        layer.weight = nn.Parameter(KINDS[kind](torch.randn(shape, generator=generator) * scale))
        model.append(layer)
    return Calibration(model)


def test_by_hand():
    """Scores 1/14, 4/13 and 1 of 1, 2, 3; 9/25 and 1 of 3, 4: the best three are one, two, and the largest of each."""
    model = nn.Sequential(nn.Linear(3, 1, bias=False), nn.Linear(2, 1, bias=False))
    model[0].weight, model[1].weight = (nn.Parameter(torch.tensor(row)) for row in ([[3.0, -1.0, 2.0]], [[-3.0, 4.0]]))
    budgets = Lamp()(Calibration(model), 0.4)
    assert budgets == {"0.weight": 1, "1.weight": 2}
    masks = KeepTop(magnitude, ties="last")(Calibration(model), budgets).masks
    assert masks["0.weight"].tolist() == [[True, False, False]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compat", ["corrected", "official"])
@pytest.mark.parametrize("misleading", [False, True])
@pytest.mark.parametrize("large", [False, True])
def test_budgets_and_masks_are_those_of_the_definition(kind, compat, misleading, large, monkeypatch):
    monkeypatch.setattr(module, "DEVIATIONS", 0.05 if misleading else module.DEVIATIONS)
    monkeypatch.setattr(module, "MARGIN", -1.0 if misleading else module.MARGIN)
    if large:
        monkeypatch.setattr(module, "LARGE", 1)
        monkeypatch.setattr(module, "STEP", 64)
    asked = calibration(kind)
    sparsities = [0.0, 1e-4, 0.1, 1 / 3, 0.5, 0.63, 0.9, 0.999]
    found = Lamp(compat=compat).for_all(asked, sparsities)
    assert found == GlobalThreshold(lamp, compat=compat).for_all(asked, sparsities)
    for budgets in found:
        masks = KeepTop(magnitude, compat=compat, ties="last")(asked, budgets).masks
        for name, by_score in KeepTop(lamp, compat=compat)(asked, budgets).masks.items():
            assert int(masks[name].sum()) == budgets[name]
            if kind not in ("equal", "coarse", "half zero", "wide"):  # equal float32 scores of unequal or equal weights
                assert masks[name].equal(by_score)
            else:
                assert _lamp_order(asked.layers[name].matrix, masks[name])


def _lamp_order(w, mask):
    """Whether the kept weights are the last in ascending order of |w|, ties by index."""
    order = w.flatten().abs().sort(stable=True).indices
    return bool(mask.flatten()[order].int().diff().ge(0).all())


def test_of_a_large_layer_only_what_competes_is_put_in_order(monkeypatch):
    monkeypatch.setattr(module, "LARGE", 5000)
    ordered, order = [], module.in_ascending_order
    monkeypatch.setattr(module, "in_ascending_order", lambda sizes: ordered.append(len(sizes)) or order(sizes))
    asked = calibration("normal")
    budgets = Lamp()(asked, 0.9)
    assert budgets["2.weight"] <= ordered[-2] < 9000  # of 10,000; the last layer is small
    least = hints_of(magnitude, asked).thresholds["2.weight", budgets["2.weight"]]
    sizes = asked.layers["2.weight"].matrix.abs().flatten().sort(descending=True).values
    assert least == float(sizes[budgets["2.weight"] - 1])


def test_scores_are_computed_once(monkeypatch):
    asked, seen = calibration("normal"), []
    monkeypatch.setattr(
        module, "ascending_shares_of_rest", lambda w: seen.append(len(w)) or ascending_shares_of_rest(w)
    )
    Lamp().for_all(asked, [0.5, 0.63, 0.9])
    sampled = [len(many_layers.pick(layer.matrix)) for layer in asked.layers.values()]
    assert seen == sampled + [layer.size for layer in asked.layers.values()]


def test_ascending_scores_are_those_of_the_weights():
    w = torch.randn(50, 40, generator=torch.Generator().manual_seed(0))
    assert ascending_shares_of_rest(w.abs().flatten().sort().values).equal(share_of_rest(w).flatten().sort().values)


def test_sums_go_on_from_one_piece_of_a_layer_to_the_next():
    sizes = torch.rand(100_001, generator=torch.Generator().manual_seed(0)).sort().values
    squares = sizes.double().square()
    expected = (squares / squares.flip(0).cumsum(0).flip(0)).float()
    assert ascending_shares_of_rest(sizes).equal(expected)
    assert ascending_shares_of_rest(torch.zeros(3)).tolist() == [0, 0, 0]


def test_what_an_earlier_step_removed_comes_last():
    dense, alive = calibration("normal"), {}
    for name, layer in dense.layers.items():
        alive[name] = torch.rand(layer.matrix.shape, generator=torch.Generator().manual_seed(1)) < 0.6
        with torch.no_grad():
            layer.weight.mul_(alive[name])
    asked = Calibration(dense.model, alive=alive)
    for sparsity in (0.3, 0.5, 0.9):
        assert Lamp()(asked, sparsity) == GlobalThreshold(lamp)(asked, sparsity)
