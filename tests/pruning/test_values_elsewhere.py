"""New values of what is kept, in the company of what else a pruner can have."""

import logging
from functools import partial

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

import vlp_bench
from tests.pruning.toys import labelled, sequential
from vlp_bench.pruning import catalogue
from vlp_bench.pruning.allocation.uniform import Uniform
from vlp_bench.pruning.another_sparsity import rebuilt
from vlp_bench.pruning.pruner import Pruner, describe
from vlp_bench.pruning.schedule import Reviving, constant, linear
from vlp_bench.pruning.scores import force, magnitude
from vlp_bench.pruning.solution import Solution, Solved
from vlp_bench.pruning.solvers.keep_top import KeepTop
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.inputs import InputProducts
from vlp_bench.pruning.values import fit_rows, least_squares

FIT = {"values": "least_squares"}


def by_turns():
    """Keeps the first inputs in one step, the others in the next."""
    steps = []

    def solve(calibration, budgets):
        mask = torch.zeros(3, 6, dtype=torch.bool)
        mask[:, 3 * (len(steps) % 2) :][:, :3] = True
        steps.append(mask)
        return Solved({"0.weight": mask}, {})

    return solve


def batches():
    return [batch[0] for batch in labelled()]


def test_what_returns_is_fitted_to_the_first_weights():
    """A step's own weights have zeros there."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 3))
    schedule = Reviving(path=partial(constant, steps=2))
    pruner = Pruner(allocate=Uniform(), solve=by_turns(), schedule=schedule, values=least_squares)
    found, products = pruner.prune(model, 0.5, batches()), Calibration(model, batches())[InputProducts()]["0.weight"]
    weight = model[0].weight.detach().double()
    h = products + 0.01 * products.diagonal().mean() * torch.eye(6, dtype=torch.float64)
    expected = torch.linalg.solve(h[3:, 3:], h[3:] @ weight.t()).t()
    assert expected.abs().min() > 1e-3
    torch.testing.assert_close(found.weights["0.weight"][:, 3:].double(), expected)
    assert not found.weights["0.weight"][:, :3].any()


@pytest.mark.parametrize("solve", ["sparsegpt", "thanos", "alps", "tamt"])
def test_a_solver_that_may_revive_starts_from_the_first_weights(solve):
    """One layer's inputs are those of every step: a first step that removes more leaves no trace."""
    model, data = nn.Sequential(nn.Linear(6, 3)), labelled()
    parts = catalogue.load(solve)
    once, again = (
        Pruner(allocate=parts.allocate, solve=parts.solve, schedule=schedule).prune(model, 0.5, data)
        for schedule in (partial(constant, steps=1), Reviving(path=lambda sparsity: [0.8, sparsity]))
    )
    assert again.masks["0.weight"].equal(once.masks["0.weight"])
    assert set(again.weights) == set(once.weights)
    for name, weight in once.weights.items():
        torch.testing.assert_close(again.weights[name], weight)


def test_a_schedule_that_revives_nothing_says_so(caplog):
    torch.manual_seed(0)
    model, schedule = sequential(), Reviving(path=partial(linear, steps=3))
    magnitudes = catalogue.load("lmp")
    Pruner(allocate=magnitudes.allocate, solve=magnitudes.solve, schedule=schedule).prune(model, 0.6)
    assert "no removed weight came back in any step" in caplog.text
    caplog.clear()
    Pruner(allocate=Uniform(), solve=KeepTop(score=force), schedule=schedule).prune(model, 0.6, labelled())
    assert "came back" not in caplog.text


def test_damping_that_is_lost_beside_the_inputs_is_named():
    model, alike = nn.Sequential(nn.Linear(6, 3)), [torch.ones(4, 6)]
    with pytest.raises(ValueError, match=r"the inputs of '0\.weight' depend on .* values\.damping=1e-20: use more"):
        vlp_bench.prune(model, "omp", 0.5, alike, options=FIT | {"values.damping": 1e-20})
    found = vlp_bench.prune(model, "omp", 0.5, alike, options=FIT)
    lost = (model[0].weight - found.weights["0.weight"]).sum(1)  # what all outputs lose: damping alone
    assert lost.abs().max() < 0.02 * model[0].weight.abs().sum(1).max()


@pytest.mark.parametrize("name", ["wanda_bias", "flap"])
def test_biases_that_give_way_are_told(name, caplog):
    model = sequential()
    with caplog.at_level(logging.WARNING):
        plain = vlp_bench.prune(model, name, 0.3, labelled())
        assert "biases stay" not in caplog.text
        found = vlp_bench.prune(model, name, 0.3, labelled(), options=FIT)
    assert plain.biases
    assert not found.biases
    assert caplog.text.count("biases stay as they are: least_squares takes the place") == 1


def test_files_and_reports_carry_values(tmp_path):
    model = sequential()
    found = vlp_bench.prune(model, "omp", 0.5, labelled(), options=FIT | {"values.damping": 0.1})
    loaded = Solution.load(found.save(tmp_path / "mask.safetensors"))
    assert all(loaded.weights[n].equal(w * found.masks[n]) for n, w in found.weights.items())
    assert loaded.report["settings"]["values"] == {
        "_target_": "vlp_bench.pruning.values.least_squares",
        "damping": 0.1,
        "compat": "corrected",
    }
    again = rebuilt(loaded.report["settings"])
    assert describe(again) == loaded.report["settings"]
    assert all(again.prune(model, 0.5, labelled()).weights[n].equal(w) for n, w in found.weights.items())


def test_official_parts_ask_for_official_products():
    pruner = catalogue.load("multiflow", {"compat": "official"} | FIT)
    assert pruner.compat == "official"
    assert pruner.values.keywords["compat"] == "official"


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize(
    ("give", "told"),
    [
        (
            lambda mask: torch.full(mask.shape, torch.inf),
            "odd gives '0.weight' weights that torch.float32 doesn't hold",
        ),
        (
            lambda mask: torch.full(mask.shape, torch.nan),
            "odd gives '0.weight' weights that torch.float32 doesn't hold",
        ),
        (lambda mask: mask.t().float(), r"odd gives '0.weight' no weights \(10, 6\) as stored, but .* \(6, 10\)"),
        (lambda mask: mask, r"odd gives '0.weight' no weights \(10, 6\) as stored, but torch.bool"),
        (lambda mask: 1.0, r"odd gives '0.weight' no weights \(10, 6\) as stored, but 1.0"),
    ],
)
def test_values_of_ones_own_are_held_to_their_layers(give, told, steps):
    def odd(calibration, masks):
        return {name: give(mask) for name, mask in masks.items()}

    model, before = sequential(), sequential().state_dict()
    schedule = partial(constant, steps=steps)
    pruner = Pruner(allocate=Uniform(), solve=KeepTop(magnitude), schedule=schedule, values=odd)
    with pytest.raises(ValueError, match=told):
        pruner.prune(model, 0.5, labelled())
    assert all(own.equal(before[name]) for name, own in model.state_dict().items())


def test_what_is_removed_may_hold_anything():
    def odd(calibration, masks):
        return {name: torch.where(mask, 0.5, torch.nan) for name, mask in masks.items()}

    model = sequential()
    Pruner(allocate=Uniform(), solve=KeepTop(magnitude), values=odd).prune(model, 0.5).install(model)
    assert all(set(model[i].weight.unique().tolist()) == {0.0, 0.5} for i in (0, 2, 4))


def test_values_beyond_float16_are_named():
    """Two inputs, the kept one a fiftieth of the other: its weight would be fifty times the other's."""
    model = nn.Sequential(nn.Linear(2, 1, bias=False)).half()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3000.0, 2000.0]]))
    x = torch.tensor([[1.0, 50.0]]).half()
    with pytest.raises(ValueError, match=r"least_squares gives '0.weight' weights that torch.float16 .* beyond 65504"):
        vlp_bench.prune(model, "omp", 0.5, [x], options=FIT | {"values.damping": 1e-6})
    found = vlp_bench.prune(model.float(), "omp", 0.5, [x.float()], options=FIT | {"values.damping": 1e-6})
    assert found.weights["0.weight"][0, 0] == pytest.approx(103000, rel=0.01)


def test_transposed_weights():
    linear, other = nn.Sequential(nn.Linear(6, 3)), nn.Sequential(Conv1D(3, 6))
    with torch.no_grad():
        other[0].weight.copy_(linear[0].weight.t())
    plain, found = (vlp_bench.prune(model, "omp", 0.5, batches(), options=FIT) for model in (linear, other))
    assert found.masks["0.weight"].equal(plain.masks["0.weight"].t())
    assert found.weights["0.weight"].equal(plain.weights["0.weight"].t())
    assert not found.weights["0.weight"].equal(other[0].weight * found.masks["0.weight"])


def test_rows_of_any_size():
    """None, one, some and all of a row; more inputs than outputs, and an input that is always zero."""
    generator = torch.Generator().manual_seed(0)
    w, x = torch.randn(4, 7, generator=generator), torch.randn(20, 7, generator=generator, dtype=torch.float64)
    x[:, 2] = 0
    mask = torch.zeros(4, 7, dtype=torch.bool)
    mask[1, 2], mask[2, [0, 2, 5]], mask[3] = True, True, True
    h = x.t() @ x
    found = fit_rows(w, h, mask, 0.01)
    h = h + 0.01 * h.diagonal().mean() * torch.eye(7, dtype=torch.float64)
    assert not found[0].any()
    assert found[1, 2].item() == pytest.approx(w[1, 2].item())
    kept = [0, 2, 5]
    torch.testing.assert_close(found[2, kept], torch.linalg.solve(h[kept][:, kept], h[kept] @ w[2].double()))
    assert found[3].equal(w[3].double())
