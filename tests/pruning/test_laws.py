"""Laws that hold for the later methods, on small models whose blocks differ in size and weights are shared."""

from functools import cache

import pytest
import torch
from torch import nn

import vlp_bench
from tests.models.tiny import blip, blip2, xvlm
from tests.pruning.toys import SHORT
from vlp_bench.pruning import catalogue, scores
from vlp_bench.pruning.allocation.alpha import AlphaPruning
from vlp_bench.pruning.allocation.diversity import DiversityBudgets
from vlp_bench.pruning.allocation.erk import ERK
from vlp_bench.pruning.allocation.owl import DLP, OWL, Spread
from vlp_bench.pruning.allocation.uniform import Uniform
from vlp_bench.pruning.statistics.calibration import Calibration

METHODS = ["erk", "owl", "dlp", "alpha_pruning", "ri", "ria", "gblm", "pruner_zero", "wanda_pp", "force"]
METHODS += ["tamp", "tamp_equal", "atv", "neuroal", "wanda_pp_ro"]
MODELS = {"xvlm": xvlm, "blip": blip, "encoder-decoder": blip2}
ALLOCATORS = {
    "erk": ERK(),
    "owl": OWL(),
    "dlp": DLP(spread=0.4),
    "alpha": AlphaPruning(spread=0.8),
    "alpha of layers": AlphaPruning(tail="mid", granularity="layer"),
    "das": DiversityBudgets(),
    "das avg": DiversityBudgets(reduce="avg", max_sparsity=1.0),
    "equal": DiversityBudgets(importance="equal"),
}


@cache
def calibrated(name):
    torch.manual_seed(0)
    tiny = MODELS[name]
    model = tiny.model().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim == 2 else 1)
    return Calibration(model, tiny.batches())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("model", MODELS)
def test_exactly_what_is_asked_is_kept(name, model):
    calibration = calibrated(model)
    found = vlp_bench.prune(calibration.model, name, 0.75, calibration, options=SHORT.get(name))
    sizes = [layer.size for layer in calibration.layers.values()]
    uniform = isinstance(catalogue.load(name).allocate, Uniform)
    assert found.kept == sum(round(0.25 * size) for size in (sizes if uniform else [sum(sizes)]))


@pytest.mark.parametrize("name", ALLOCATORS)
@pytest.mark.parametrize("model", MODELS)
def test_budgets_add_up_where_blocks_differ_in_size(name, model):
    calibration = calibrated(model)
    for sparsity in (0.0, 0.1, 0.5, 0.63, 0.9, 0.995):
        kept = ALLOCATORS[name](calibration, sparsity)
        assert sum(kept.values()) == round((1 - sparsity) * calibration.total)
        assert all(0 <= kept[n] <= layer.size for n, layer in calibration.layers.items())


@pytest.mark.parametrize("model", MODELS)
def test_equal_values_are_uniform(model):
    class Same(Spread):
        def value(self, block, calibration):
            return 7.0

    calibration = calibrated(model)
    for sparsity in (0.1, 0.5, 0.9):
        kept = Same(spread=0.3)(calibration, sparsity)
        assert all(abs(kept[n] - (1 - sparsity) * layer.size) <= 2 for n, layer in calibration.layers.items())


def test_equal_layers_are_uniform():
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
    for linear in model:
        linear.load_state_dict(model[0].state_dict())
    calibration = Calibration(model)
    for allocate in (ERK(), AlphaPruning(), DiversityBudgets(importance="equal", reduce="avg")):
        assert set(allocate(calibration, 0.5).values()) == {32}


def classifier(order):
    """A linear classifier of three classes in this order, with its batches."""
    torch.manual_seed(1)
    model = nn.Linear(6, 3).double()
    batches = [(torch.randn(4, 6, dtype=torch.float64), torch.randint(3, (4,))) for _ in range(3)]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter[order].clone())
    return model, [(x, order.argsort()[y]) for x, y in batches]


@pytest.mark.parametrize("name", METHODS)
def test_permuted_outputs_permute_the_mask(name):
    order = torch.tensor([2, 0, 1])
    plain, permuted = (
        vlp_bench.prune(*pair, options={"steps": 3} if name == "force" else None)
        for model, batches in (classifier(torch.arange(3)), classifier(order))
        for pair in [(model, name, 0.5, batches)]
    )
    assert permuted.masks["weight"].equal(plain.masks["weight"][order])


@pytest.mark.parametrize("name", ["ri", "ria", "wanda", "gblm", "pruner_zero", "wanda_pp"])
def test_the_scale_of_the_weights_changes_no_order_where_statistics_are_held(name):
    model, batches = classifier(torch.arange(3))
    calibration = Calibration(model, batches)
    score, layer = getattr(scores, name), calibration.layers["weight"]
    before = score(layer, calibration)
    with torch.no_grad():
        model.weight.mul_(8)
    assert score(layer, calibration).flatten().argsort().equal(before.flatten().argsort())


def test_gblm_s_order_depends_on_the_scale_of_gradients():
    """Its two terms have different units: the more the gradients weigh, the more they decide."""
    model, batches = classifier(torch.arange(3))
    calibration = Calibration(model, batches)
    layer = calibration.layers["weight"]
    one, other = (scores.gblm(layer, calibration, alpha=alpha).flatten().argsort() for alpha in (1e-4, 1e4))
    assert not one.equal(other)
