import numpy as np
import pytest
import torch
from torch import nn

import vlp_bench
from tests.pruning.toys import Tied, labelled, sequential
from vlp_bench.pruning.allocation.uniform import Uniform
from vlp_bench.pruning.pruner import Pruner
from vlp_bench.pruning.schedule import linear
from vlp_bench.pruning.scores import magnitude, wanda
from vlp_bench.pruning.solution import Solution, Solved
from vlp_bench.pruning.solvers.alps import ALPS
from vlp_bench.pruning.solvers.bias_corrected import BiasCorrected
from vlp_bench.pruning.solvers.keep_top import KeepTop
from vlp_bench.pruning.solvers.permuted_groups import PermutedGroups
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.sweep import block_by_block


def corrected(solve, **options):
    return Pruner(allocate=Uniform(), solve=BiasCorrected(solve=solve), **options)


def by_magnitude():
    return corrected(KeepTop(magnitude))


def test_by_hand():
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 3.0]]))
        model.bias.fill_(0.5)
    solution = by_magnitude().prune(model, 0.5, [torch.tensor([[2.0, 7.0], [4.0, 7.0]])])
    assert solution.masks["weight"].tolist() == [[False, True]]
    assert solution.biases["bias"].tolist() == [3.5]  # 0.5 + 1 · mean(2, 4)
    assert model.bias.tolist() == [0.5]


@pytest.mark.parametrize("solve", [KeepTop(wanda, "output"), ALPS()])
def test_numpy_and_the_mean_output(solve):
    """The bias is that of the plain formula, and the mean output of every feature stays, whatever the solver."""
    model, batches = nn.Sequential(nn.Linear(6, 10)), [batch[0] + 1 for batch in labelled()]
    solution = corrected(solve).prune(model, 0.5, batches)
    x = torch.cat(batches).double().numpy()
    before, bias = model[0].weight.detach().double().numpy(), model[0].bias.detach().double().numpy()
    dense = model(torch.cat(batches)).detach().mean(0)
    solution.install(model)
    after = model[0].weight.detach().double().numpy()
    np.testing.assert_allclose(solution.biases["0.bias"], bias + (before - after) @ x.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model(torch.cat(batches)).mean(0), dense, rtol=1e-5, atol=1e-5)


def test_files_carry_biases_and_install_them(tmp_path):
    model = sequential()
    solution = by_magnitude().prune(model, 0.5, labelled())
    loaded = Solution.load(solution.save(tmp_path / "mask.safetensors"))
    loaded.install(model)
    for name in ("0", "2", "4"):
        assert model.get_parameter(f"{name}.bias").equal(solution.biases[f"{name}.bias"])
        assert not solution.biases[f"{name}.bias"].equal(sequential().get_parameter(f"{name}.bias"))


@pytest.mark.parametrize("options", [{"sweep": block_by_block}, {"schedule": lambda s: linear(s, steps=3)}])
def test_the_model_is_as_before_and_steps_add_up(options):
    model = sequential()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    solution = corrected(KeepTop(magnitude), **options).prune(model, 0.5, labelled())
    assert all(p.equal(before[name]) for name, p in model.named_parameters())
    x = torch.cat([batch[0] for batch in labelled()])
    lost = (before["0.weight"] * ~solution.masks["0.weight"]) @ x.mean(0)
    torch.testing.assert_close(solution.biases["0.bias"], before["0.bias"] + lost, rtol=1e-5, atol=1e-5)


def test_layers_without_a_bias_are_left_and_said(caplog):
    model = nn.Sequential(nn.Linear(6, 4, bias=False), nn.Linear(4, 3))
    solution = by_magnitude().prune(model, 0.5, labelled())
    assert list(solution.biases) == ["1.bias"]
    assert "no bias of their own to correct: 0.weight stay as the solver leaves them" in caplog.text


def test_a_tied_weight_with_two_biases_is_left(caplog):
    assert "encoder.bias" not in by_magnitude().prune(Tied(), 0.5, labelled()).biases
    assert "encoder.weight" in caplog.text


def test_a_solver_that_breaks_its_budget_is_still_told():
    class Broken:
        def __call__(self, calibration, budgets):
            masks = {name: torch.ones_like(calibration.layers[name].weight, dtype=torch.bool) for name in budgets}
            return Solved(masks, {})

    with pytest.raises(ValueError, match=r"BiasCorrected keeps 60 of 60 weights of '0.weight', its budget is 30"):
        corrected(Broken()).prune(sequential(), 0.5, labelled())


def test_attention_in_one_module():
    model = nn.MultiheadAttention(4, 2, batch_first=True)
    calibration = Calibration(model, [{"query": (x := torch.randn(2, 3, 4)), "key": x, "value": x}])
    solved = BiasCorrected(solve=KeepTop(magnitude))(calibration, dict.fromkeys(calibration.layers, 8))
    assert set(solved.biases) == {"in_proj_bias", "out_proj.bias"}


def test_the_library_knows_it():
    found = vlp_bench.prune(sequential(), "wanda_bias", 0.5, labelled())
    assert set(found.biases) == {"0.bias", "2.bias", "4.bias"}


def test_a_file_with_nan_is_refused(tmp_path):
    path = Solution({"weight": torch.ones(2, 2).bool()}, biases={"bias": torch.tensor([torch.nan, 0])}).save(
        tmp_path / "m"
    )
    with pytest.raises(ValueError, match="the new values of bias hold NaN"):
        Solution.load(path)


def test_corrected_biases_leave_the_order_of_inputs():
    model = nn.Sequential(nn.Linear(8, 16))
    solve = PermutedGroups(magnitude, "2:4")
    x = [torch.randn(5, 8, generator=torch.Generator().manual_seed(0))]
    plain, corrected = (
        Pruner(allocate=Uniform(), solve=own).prune(model, 0.5, x) for own in (solve, BiasCorrected(solve=solve))
    )
    assert corrected.biases
    assert corrected.report["permutations"] == plain.report["permutations"]
