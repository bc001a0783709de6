import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

import vlp_bench
from vlp_bench.batch import Place
from vlp_bench.pruning.adapter import PlainAdapter
from vlp_bench.pruning.allocation.global_threshold import GlobalThreshold
from vlp_bench.pruning.scores import magnitude
from vlp_bench.pruning.scoring.cache import hints_of
from vlp_bench.pruning.solvers.keep_top import KeepTop
from vlp_bench.pruning.statistics.calibration import Calibration


def linear(rows):
    model = nn.Linear(len(rows[0]), len(rows))
    model.weight = nn.Parameter(torch.tensor(rows))
    return Calibration(model)


def test_by_hand_in_a_layer_and_in_each_row():
    calibration = linear([[5.0, 4.0, 3.0], [2.0, 1.0, -6.0]])
    solved = KeepTop(magnitude)(calibration, {"weight": 3})
    assert solved.masks["weight"].tolist() == [[True, True, False], [False, False, True]]
    assert solved.weights == {}
    rows = KeepTop(magnitude, within="output")(calibration, {"weight": 3}).masks["weight"]
    assert rows.tolist() == [[True, True, False], [False, False, True]]
    assert KeepTop(magnitude, within="output")(calibration, {"weight": 4}).masks["weight"].sum(1).tolist() == [2, 2]


def test_ties():
    calibration = linear([[1.0, 1.0], [1.0, 2.0]])
    assert KeepTop(magnitude)(calibration, {"weight": 2}).masks["weight"].tolist() == [[True, False], [False, True]]
    official = KeepTop(magnitude, compat="official")(calibration, {"weight": 2})
    assert official.masks["weight"].tolist() == [[False, False], [False, True]]


def test_ties_of_rows_as_a_stable_sort_has_them():
    """The released Wanda removes the first int(s·d_in) of a row in ascending order, and equals stay in theirs."""
    rows = [[1.0, 2.0, 1.0, 1.0, 3.0, 0.0], [2.0, 2.0, 2.0, 2.0, 2.0, 2.0]]
    found = {
        compat: KeepTop(magnitude, within="output", compat=compat)(linear(rows), {"weight": 6}).masks["weight"]
        for compat in ("corrected", "official")
    }
    assert found["corrected"].int().tolist() == [[1, 1, 0, 0, 1, 0], [1, 1, 1, 0, 0, 0]]
    released = torch.ones(2, 6, dtype=torch.bool)
    released.scatter_(1, torch.tensor(rows).sort(dim=1, stable=True).indices[:, :3], False)
    assert found["official"].tolist() == released.tolist()


def test_masks_are_in_the_orientation_of_the_parameter():
    model = Conv1D(2, 3)
    model.weight = nn.Parameter(torch.tensor([[1.0, 6.0], [2.0, 5.0], [3.0, 4.0]]))
    mask = KeepTop(magnitude, within="output")(Calibration(model), {"weight": 2}).masks["weight"]
    assert mask.tolist() == [[False, True], [False, False], [True, False]]
    assert mask.is_contiguous()


def test_two_of_four_by_hand():
    rows = [[5.0, 1.0, -6.0, 2.0, 0.0, 0.0, 0.0, 0.0], [1.0, 1.0, -1.0, 1.0, 3.0, 1.0, 2.0, 2.0]]
    masks = KeepTop(magnitude, within="2:4")(linear(rows), {"weight": 8}).masks
    assert masks["weight"].int().tolist() == [[1, 0, 1, 0, 1, 1, 0, 0], [1, 1, 0, 0, 1, 0, 1, 0]]
    masks = KeepTop(magnitude, within="1:2")(linear(rows), {"weight": 8}).masks
    assert masks["weight"].int().tolist() == [[1, 0, 1, 0, 1, 0, 1, 0], [1, 0, 1, 0, 1, 0, 1, 0]]
    masks = KeepTop(magnitude, within="4:8")(linear(rows), {"weight": 8}).masks
    assert masks["weight"].int().tolist() == [[1, 1, 1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 1, 0, 1, 1]]


def test_groups_run_along_the_inputs_however_a_weight_is_stored():
    model = Conv1D(2, 4)  # stored as (d_in, d_out) = (4, 2)
    model.weight = nn.Parameter(torch.tensor([[1.0, 8.0], [2.0, 7.0], [3.0, 6.0], [4.0, 5.0]]))
    mask = KeepTop(magnitude, within="2:4")(Calibration(model), {"weight": 4}).masks["weight"]
    assert mask.int().tolist() == [[0, 1], [0, 1], [1, 0], [1, 0]]


def test_two_of_four_by_name():
    generator = torch.Generator().manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 12), nn.Linear(12, 4)), torch.randn(5, 8, generator=generator)
    solution = vlp_bench.prune(model, "wanda", 0.5, [(x, None)], options={"solve": "wanda_2_4"})
    norms = [x.norm(dim=0), (x @ (model[0].weight * solution.masks["0.weight"]).t() + model[0].bias).norm(dim=0)]
    for layer, norm, mask in zip(model, norms, solution.masks.values(), strict=True):
        groups = (layer.weight.detach().abs() * norm).view(-1, 4)
        expected = torch.zeros_like(groups).scatter_(1, groups.topk(2, 1).indices, 1.0).bool()
        assert mask.view(-1, 4).equal(expected)
    with pytest.raises(ValueError, match=r"sparsity=0.6: 2:4 keeps 2 of every 4 weights, which is sparsity 0.5"):
        vlp_bench.prune(model, "wanda", 0.6, [(x, None)], options={"solve": "wanda_2_4"})


def test_groups_that_do_not_fit_are_refused_by_name():
    with pytest.raises(ValueError, match=r"'weight' has 6 inputs, which 2:4 can't group by 4: leave it out"):
        KeepTop(magnitude, within="2:4")(linear([[1.0] * 6]), {"weight": 3})
    with pytest.raises(ValueError, match=r"3:4 keeps 3 of every 4 .* keep 2 of 4: ask for sparsity 0.25 with uniform"):
        KeepTop(magnitude, within="3:4")(linear([[1.0] * 4]), {"weight": 2})
    for wrong in ("2:", "0:4", "2:4:8", "-1:4", "5:4"):
        with pytest.raises(ValueError, match=r"unknown within .*: use one of layer, matrix, output, n:m \(as 2:4\)"):
            KeepTop(magnitude, within=wrong)


def test_only_layers_with_a_budget_are_solved():
    assert list(KeepTop(magnitude)(linear([[1.0, 2.0]]), {}).masks) == []


@pytest.mark.parametrize("setting", ["within", "compat"])
def test_unknown_settings(setting):
    with pytest.raises(ValueError, match=f"unknown {setting} 'row': use one of"):
        KeepTop(magnitude, **{setting: "row"})


class Towers(PlainAdapter):
    def place(self, name):
        return Place("vision" if name.startswith("0") else "text", name)


def test_within_by_modality():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    for layer, rows in zip(model, ([[5.0, 4.0, 3.0], [2.0, 1.0, 6.0]], [[4.0, 3.0], [2.0, 1.0]]), strict=True):
        layer.weight = nn.Parameter(torch.tensor(rows))
    calibration, budgets = Calibration(model, None, Towers()), {"0.weight": 3, "1.weight": 2}
    for within in ({"vision": "matrix", "others": "output"}, {"vision": "layer", "text": "output"}):
        masks = KeepTop(magnitude, within)(calibration, budgets).masks
        assert masks["0.weight"].tolist() == [[True, True, False], [False, False, True]]
        assert masks["1.weight"].tolist() == [[True, False], [True, False]]
    masks = KeepTop(magnitude, {"vision": "output", "others": "layer"})(calibration, budgets).masks
    assert masks["0.weight"].sum(1).tolist() == [2, 1]
    assert masks["1.weight"].tolist() == [[True, True], [False, False]]
    with pytest.raises(
        ValueError, match=r"within says nothing of '1.weight', of modality 'text': it has vision, others"
    ):
        KeepTop(magnitude, {"vision": "matrix"})(calibration, budgets)
    with pytest.raises(ValueError, match="unknown within 'rows': use one of"):
        KeepTop(magnitude, {"vision": "rows"})


@pytest.mark.parametrize("pruner", ["omp", "lmp", "lamp"])
@pytest.mark.parametrize("compat", ["corrected", "official"])
def test_masks_that_the_allocator_leaves_are_those_of_the_scores(pruner, compat, monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(150, 200), nn.Linear(200, 30), nn.Linear(30, 60))
    with torch.no_grad():
        model[1].weight.mul_(30).round_().div_(30)  # ties
    options = {"compat": compat}
    quick = vlp_bench.prune(model, pruner, [0.5, 0.75, 0.9], options=options)
    monkeypatch.setattr(KeepTop, "_known", lambda self, layer, calibration, kept: [None for _ in kept])
    for sparsity, solution in vlp_bench.prune(model, pruner, [0.5, 0.75, 0.9], options=options).items():
        assert all(mask.equal(quick[sparsity].masks[name]) for name, mask in solution.masks.items())


def test_masks_that_nobody_takes_are_not_kept():
    calibration = Calibration(nn.Linear(300, 100, bias=False))
    solve, allocate, hints = KeepTop(magnitude), GlobalThreshold(magnitude), hints_of(magnitude, calibration)
    solve.expects_masks(calibration)
    allocate(calibration, 0.5)
    assert int(hints.masks["weight", 15_000].sum()) == 15_000
    solve(calibration, {"weight": 14_999})
    assert not hints.masks
    allocate(calibration, 0.5)
    assert not hints.masks
