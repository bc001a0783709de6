from functools import partial

import pytest
import torch

from tests.pruning.toys import TwoModalities, sequential
from vlp_bench.pruning.allocation.budgets import by_ratio, kept_of
from vlp_bench.pruning.allocation.global_threshold import GlobalThreshold
from vlp_bench.pruning.allocation.uniform import Dense, Uniform
from vlp_bench.pruning.scores import magnitude
from vlp_bench.pruning.scoring.cache import evaluate
from vlp_bench.pruning.solvers.keep_top import KeepTop
from vlp_bench.pruning.statistics.calibration import Calibration

SIZES = {"0.weight": 60, "2.weight": 70, "4.weight": 21}


@pytest.fixture
def calibration():
    return Calibration(sequential(), adapter=TwoModalities())


def test_budget_by_hand():
    assert kept_of(100, 0.63) == 37
    assert kept_of(3, 0.5) == 2  # 1.5, rounded to even
    assert kept_of(3, 0.5, "official") == 2  # int(1.5) = 1 goes
    assert kept_of(10, 0.99) == 0


def test_a_ratio_loses_a_weight_where_floats_do():
    assert by_ratio(3, 10) == 3
    changed = [kept for kept in range(1, 1153) if by_ratio(kept, 1152) != kept]
    assert changed
    assert all(by_ratio(kept, 1152) == kept + 1 for kept in changed)


def test_everything_and_uniform(calibration):
    assert Dense()(calibration, 0.9) == SIZES
    assert Uniform()(calibration, 0.5) == {"0.weight": 30, "2.weight": 35, "4.weight": 10}
    assert Uniform(compat="official")(calibration, 0.5) == {"0.weight": 30, "2.weight": 35, "4.weight": 11}


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.37, 0.63, 0.9, 0.999])
@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize(
    "between, groups",
    [
        ("model", [["0.weight", "2.weight", "4.weight"]]),
        ("modality", [["0.weight"], ["2.weight", "4.weight"]]),
        ("block", [["0.weight"], ["2.weight"], ["4.weight"]]),
        ("layer", [["0.weight"], ["2.weight"], ["4.weight"]]),
    ],
)
def test_each_group_keeps_exactly_its_share(calibration, between, groups, sparsity, equal):
    if equal:
        for layer in calibration.layers.values():
            torch.nn.init.ones_(layer.weight)
    kept = GlobalThreshold(magnitude, between)(calibration, sparsity)
    for group in groups:
        assert sum(kept[name] for name in group) == round((1 - sparsity) * sum(SIZES[name] for name in group))


def test_modalities_do_not_compete(calibration):
    with torch.no_grad():
        calibration.layers["0.weight"].weight.mul_(1000)
    assert GlobalThreshold(magnitude)(calibration, 0.7) == {"0.weight": 45, "2.weight": 0, "4.weight": 0}
    assert GlobalThreshold(magnitude, "modality")(calibration, 0.7)["0.weight"] == 18


def test_removed_weights_do_not_come_back(calibration):
    stage = calibration.stage(1, alive={"0.weight": torch.zeros(10, 6, dtype=torch.bool)})
    assert GlobalThreshold(magnitude)(stage, 0.5)["0.weight"] == 0


def test_official_removes_all_ties(calibration):
    for layer in calibration.layers.values():
        torch.nn.init.ones_(layer.weight)
    assert GlobalThreshold(magnitude, compat="official")(calibration, 0.5) == dict.fromkeys(SIZES, 0)
    assert GlobalThreshold(magnitude, compat="official")(calibration, 0.001) == SIZES  # int(0.001 · 151) = 0


@pytest.mark.parametrize("setting", ["group_by", "compat", "hand_over"])
def test_unknown_settings(setting):
    with pytest.raises(ValueError, match=f"unknown {setting} 'rows': use one of"):
        GlobalThreshold(magnitude, **{setting: "rows"})


def test_uniform_refuses_unknown_compat():
    with pytest.raises(ValueError, match="unknown compat"):
        Uniform(compat="old")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_was_removed_comes_last_whatever_its_score(dtype):
    scores = torch.randn(10, 6).to(dtype)
    scores[0] = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 1e30, -1e30])
    scores[1] = scores[0]
    alive = torch.ones(6, 10, dtype=torch.bool).t()  # as a mask of a transposed layer
    alive[1:3] = False
    calibration = Calibration(sequential(), alive={"0.weight": alive})
    layer = calibration.layers["0.weight"]
    given = scores.clone()
    found = evaluate(lambda layer, calibration: scores, layer, calibration, "corrected")
    assert found.dtype == dtype
    assert found.equal(given.masked_fill(~alive, -torch.inf))
    assert scores.equal(given)
    assert evaluate(lambda layer, calibration: scores, layer, calibration, "official").equal(given)


@pytest.mark.parametrize("lowest", [0.25, 0.0])
def test_a_step_scores_each_layer_once_and_takes_what_was_removed_last(calibration, lowest):
    def score(layer, calibration):
        asked.append(layer.name)
        return layer.matrix.abs() * 0 + lowest * (calibration.alive[layer.name] if lowest else 1)

    alive = {  # all that is alive scores the same, or zero as what was removed
        name: torch.arange(layer.size).view(layer.matrix.shape) % 3 == 1 for name, layer in calibration.layers.items()
    }
    masks = []
    for is_step in (False, True):
        asked, step = [], Calibration(calibration.model, alive=alive, is_step=is_step)
        kept = GlobalThreshold(score)(step, 0.8)
        masks.append(KeepTop(score)(step, kept).masks)
    assert sorted(asked) == sorted(calibration.layers)
    for name, mask in masks[0].items():
        assert masks[1][name].equal(mask)
        assert not (mask & ~alive[name]).any()


@pytest.mark.parametrize("compat", ["corrected", "official"])
def test_the_solver_starts_where_the_competition_ended(calibration, compat, monkeypatch):
    kept = GlobalThreshold(partial(sized), compat=compat)(calibration, 0.5)
    expected = KeepTop(magnitude, compat=compat)(calibration, kept).masks
    monkeypatch.delattr("vlp_bench.pruning.selection.thresholds.largest_value")
    found = KeepTop(partial(sized), compat=compat)(calibration, kept).masks
    assert all(found[name].equal(mask) for name, mask in expected.items())
    with pytest.raises(NameError):
        KeepTop(magnitude, compat=compat)(calibration, kept)


def sized(layer, calibration):
    return layer.matrix.abs()
