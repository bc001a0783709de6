"""What is unusual but allowed gives the right masks; what can't be is one line; the model is the same in any case."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import vlp_bench
from tests.pruning.toys import labelled, sequential
from vlp_bench.pruning import catalogue, scores
from vlp_bench.pruning.allocation.global_threshold import GlobalThreshold
from vlp_bench.pruning.allocation.uniform import Uniform
from vlp_bench.pruning.solvers.bias_corrected import BiasCorrected
from vlp_bench.pruning.solvers.keep_top import KeepTop
from vlp_bench.pruning.solvers.sparsegpt import SparseGPT
from vlp_bench.pruning.weights_hash import hash_of_weights

BATCHES = [(torch.randn(6, 8, generator=torch.Generator().manual_seed(seed)), torch.arange(6) % 4) for seed in (0, 1)]


def pruner(**parts):
    return vlp_bench.Pruner(**{"allocate": Uniform(), "solve": KeepTop(scores.magnitude)} | parts)


def test_weights_that_lie_anywhere_in_their_storage():
    model = nn.Sequential(nn.Linear(8, 3), nn.Linear(3, 8), nn.Linear(8, 8))
    expected = vlp_bench.prune(model, "omp", 0.5).masks
    vector = nn.utils.parameters_to_vector(model.parameters()).detach()
    nn.utils.vector_to_parameters(vector, model.parameters())  # views at odd offsets of one storage
    assert all(mask.equal(expected[name]) for name, mask in vlp_bench.prune(model, "omp", 0.5).masks.items())
    with torch.inference_mode():
        frozen = nn.Sequential(nn.Linear(8, 4))
    assert vlp_bench.prune(frozen, "omp", 0.5).kept == 16


def test_the_hash_sees_writes_that_nobody_counts():
    model = nn.Linear(4, 3, bias=False)
    weights = {"weight": model.weight}
    first = hash_of_weights(model, weights)
    assert hash_of_weights(model, weights) == first
    model.weight.data.copy_(model.weight.data[:, [1, 0, 2, 3]])  # the sums of rows stay
    assert hash_of_weights(model, weights) != first
    model.weight.data.copy_(model.weight.data[:, [1, 0, 2, 3]])
    assert hash_of_weights(model, weights) == first


@pytest.mark.parametrize("compat", ["corrected", "official"])
@pytest.mark.parametrize("name", ["tamt", "snip", "multiflow"])
def test_running_statistics_are_put_back(name, compat):
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    vlp_bench.prune(model, name, [0.5, 0.75], BATCHES, options={"compat": compat})
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    "write",
    [
        lambda w: w.data.abs_(),
        lambda w: w.data.numpy().__imul__(2),
        lambda w: setattr(w, "data", w.data * 2),
    ],
)
@pytest.mark.parametrize("allocate", [Uniform(), None])
def test_a_score_that_changes_the_weight_in_any_way_is_refused(write, allocate):
    def bad(layer, calibration):
        write(layer.weight)
        return layer.matrix.abs()

    model = sequential()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=r"bad changes the weight in place for '0\.weight'"):
        pruner(allocate=allocate or GlobalThreshold(bad), solve=KeepTop(bad)).prune(model, 0.5)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_a_score_with_a_graph_is_as_good_as_one_without():
    def graph(layer, calibration):
        return layer.weight.abs()

    model, steps = sequential(), lambda s: [s / 2, s]
    found = pruner(allocate=GlobalThreshold(graph), solve=KeepTop(graph), schedule=steps).prune(model, 0.5)
    plain = pruner(allocate=GlobalThreshold(scores.magnitude), schedule=steps).prune(model, 0.5)
    assert all(mask.equal(plain.masks[name]) for name, mask in found.masks.items())


@pytest.mark.parametrize("path", [[], [0.3], [2, 0.5], None, 0.5, ["a", 0.5], [float("nan"), 0.5]])
def test_what_a_schedule_gives_is_checked(path):
    with pytest.raises(ValueError, match=r"the schedule <lambda> gives .* ends with 0.5 is needed"):
        pruner(schedule=lambda s: path).prune(sequential(), 0.5)


def test_an_official_path_of_one_step_need_not_end_at_the_target():
    options = {"compat": "official", "steps": 1}
    assert vlp_bench.prune(sequential(), "itersnip", [0.3, 0.5], labelled(), options=options)[0.3].masks


def test_sparsegpt_official_adds_damping_until_both_factors_are_there():
    direction = torch.linspace(1, 2, 8, dtype=torch.float64)
    products = torch.outer(direction, direction) + 1e-15 * torch.eye(8).double()
    assert torch.isfinite(SparseGPT(compat="official").prepared(products).upper).all()


def test_sparsities_of_any_kind():
    model = sequential()
    expected = vlp_bench.prune(model, "omp", 0.5).kept
    for given in ((0.5,), {0.5}, np.array([0.5]), (s for s in [0.5])):
        assert vlp_bench.prune(model, "omp", given)[0.5].kept == expected
    assert vlp_bench.prune(model, "omp", np.float32(0.5)).kept == expected
    for bad in (None, [None], [[0.5]], torch.tensor([0.5, 0.6])[None], "0.5", object()):
        with pytest.raises(ValueError, match=r"at least 0 and below 1; got|number in"):
            vlp_bench.prune(model, "omp", bad)


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda m: vlp_bench.prune(None, "omp", 0.5), "model is of type NoneType"),
        (lambda m: vlp_bench.prune(m, None, 0.5), "pruner is of type NoneType: give a name"),
        (lambda m: vlp_bench.prune(m, "omp", 0.5, options=5), "options are a mapping"),
        (lambda m: vlp_bench.prune(m, "omp", 0.5, options={1: 1}), "options are a mapping"),
        (lambda m: vlp_bench.prune(m, "omp", 0.5, options={"solve": None}), "solve=None: use one of"),
        (lambda m: vlp_bench.prune(m, "omp", 0.5, options={"allocate": "../omp"}), "unknown allocate '../omp'"),
        (lambda m: vlp_bench.prune(m, "wanda", 0.5, labelled(), options={"schedule": "linear"}), "needs 'steps' here"),
        (lambda m: vlp_bench.prune(m, "wanda", 0.5, [[]]), "nothing to look at|empty list"),
        (lambda m: vlp_bench.prune(m, "tamt", 0.5, [None]), "nothing to look at|holds no tensor"),
        (lambda m: vlp_bench.Pruner(allocate=Uniform()), "lacks solve"),
        (lambda m: pruner(num_batches="2"), "num_batches must be a whole number"),
        (lambda m: pruner(solve="wanda"), "solve must be a function"),
        (lambda m: pruner(allocate=lambda c, s: None).prune(m, 0.5), "gives NoneType: kept weights"),
        (lambda m: pruner(solve=lambda c, b: {}).prune(m, 0.5), "Solved.masks, weights. is needed"),
        (lambda m: vlp_bench.KeepPruned(vlp_bench.prune(m, "omp", 0.5)), "solution.masks"),
    ],
)
def test_what_cannot_be_is_one_line(call, said):
    with pytest.raises(ValueError, match=said) as error:
        call(sequential())
    assert len(str(error.value).splitlines()) == 1


# What a part of one's own looks at stays as it is


def other_weight(how):
    def score(layer, calibration):
        how(calibration.layers["2.weight"].weight if layer.name == "0.weight" else torch.ones(3, 3))
        return layer.matrix.abs()

    return score


WRITES = [
    lambda w: w.data.abs_(),
    lambda w: w.data.numpy().__imul__(2),
    lambda w: setattr(w, "data", w.data * 2),
]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("schedule", [lambda s: [s], lambda s: [s / 2, s]])
def test_a_score_that_changes_another_layer_is_refused_and_the_weight_is_back(write, schedule):
    model, bad = sequential(), other_weight(write)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=r"score.* changed '2\.weight' in place: parts of a pruner look at"):
        pruner(solve=KeepTop(bad), schedule=schedule).prune(model, 0.5)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_an_allocator_and_a_solver_of_ones_own_are_held_to_the_same():
    def allocate(calibration, sparsity):
        calibration.model[0].bias.data.add_(1)
        return GlobalThreshold(scores.magnitude)(calibration, sparsity)

    def solve(calibration, budgets):
        calibration.layers["0.weight"].weight.data.mul_(-1)
        return KeepTop(scores.magnitude)(calibration, budgets)

    model = sequential()
    with pytest.raises(ValueError, match=r"allocate changed '0\.bias' in place"):
        pruner(allocate=allocate).prune(model, 0.5)
    with pytest.raises(ValueError, match=r"solve changed '0\.weight' in place"):
        pruner(solve=solve).prune(model, 0.5)


def test_what_a_score_writes_into_statistics_is_nobody_elses():
    """By hand: a score that spoils what it was shown gives the masks of one that does not, in all that share it."""

    def spoils(layer, calibration):
        norms = calibration.norms()
        found = layer.matrix.abs() * norms[layer.name]
        for tensor in (
            norms[layer.name],
            *norms.values(),
            *calibration.gradients().values(),
            *(t for _, t in norms.items()),
        ):
            tensor.data.fill_(-1)
        norms.clear()
        return found

    model = sequential()
    shared = vlp_bench.Calibration(model, labelled())
    found = pruner(solve=KeepTop(spoils)).prune(model, [0.5, 0.75], shared)
    norms = {name: tensor.clone() for name, tensor in shared.norms().items()}
    clean = vlp_bench.Calibration(model, labelled())
    expected = pruner(solve=KeepTop(lambda layer, c: layer.matrix.abs() * c.norms()[layer.name])).prune(
        model, [0.5, 0.75], clean
    )
    assert all(norms[name].equal(tensor) for name, tensor in clean.norms().items())
    for level in (0.5, 0.75):
        assert all(mask.equal(expected[level].masks[name]) for name, mask in found[level].masks.items())


# Several parts at once


def drawn_batches():
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(6, 12, generator=generator), torch.randint(3, (6,), generator=generator)) for _ in range(2)]


def perceptron():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))


class Sides(vlp_bench.PlainAdapter):
    def place(self, name):
        return vlp_bench.Place("vision" if name.startswith("0.") else "text", name)


def test_a_schedule_keeps_to_one_modality():
    options = {"schedule": "linear", "steps": 2, "modality": "vision"}
    found = vlp_bench.prune(perceptron(), "multiflow", 0.5, drawn_batches(), Sides(), options)
    assert set(found.masks) == {"0.weight"}
    assert found.kept == 96


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.attention, self.head = nn.Linear(12, 12), nn.MultiheadAttention(12, 2), nn.Linear(12, 3)

    def forward(self, x):
        h = self.inner(x)
        return self.head(self.attention(h, x, x)[0])


def test_a_schedule_leaves_dense_what_it_cannot_see():
    torch.manual_seed(0)
    options = {"schedule": "linear", "steps": 2}
    found = vlp_bench.prune(Attends(), "wanda", 0.5, drawn_batches(), None, options)
    assert set(found.masks) == {"inner.weight", "attention.out_proj.weight", "head.weight"}


def test_an_allocator_is_asked_once_for_each_sparsity():
    asked = []

    def evenly(calibration, sparsity):
        asked.append(sparsity)
        return {name: round(layer.size * (1 - sparsity)) for name, layer in calibration.layers.items()}

    pruner = vlp_bench.Pruner(allocate=evenly, solve=KeepTop(scores.magnitude))
    found = pruner.prune(perceptron(), [0.5, 0.75])
    assert asked == [0.5, 0.75]
    assert [solution.sparsity for solution in found.values()] == [0.5, 0.75]


def test_an_expanded_weight_is_named():
    model = perceptron()
    model[2].weight = nn.Parameter(torch.randn(8, 1).expand(8, 16))
    with pytest.raises(ValueError, match=r"'2\.weight' is expanded"):
        vlp_bench.prune(model, "wanda", 0.5, drawn_batches())


def test_biases_are_not_corrected_while_weights_may_return():
    force = catalogue.load("force", {"steps": 2})
    pruner = replace(force, solve=BiasCorrected(solve=force.solve))
    with pytest.raises(ValueError, match="removed weights may return"):
        pruner.prune(perceptron(), 0.5, drawn_batches())


def test_official_sparsegpt_damps_what_cannot_be_inverted():
    few = [torch.randn(2, 12)]
    assert vlp_bench.prune(perceptron(), "sparsegpt", 0.5, few, None, {"compat": "official"}).sparsity >= 0.5


def test_permuted_groups_in_steps():
    options = {"solve": "ria_2_4_permuted", "schedule": "constant", "steps": 2}
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8))
    assert vlp_bench.prune(model, "wanda", 0.5, [b[0] for b in drawn_batches()], None, options).sparsity == 0.5
