"""The laws of every method with every pattern it can have, on small models of every kind and on one with dead channels.

One case is a method, a pattern and a model; all laws are held against it. What cannot be combined is skipped, and says
why. Methods that a test must not wait for have fewer steps than as published.
"""

import copy
from functools import cache

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import vlp_bench
from tests.models.tiny import blip, clip, dino, xvlm
from tests.pruning.toys import SHORT
from vlp_bench.pruning import catalogue
from vlp_bench.pruning.allocation.budgets import kept_of
from vlp_bench.pruning.allocation.global_threshold import GlobalThreshold
from vlp_bench.pruning.allocation.uniform import Dense, Uniform
from vlp_bench.pruning.solution import Solution
from vlp_bench.pruning.solvers.bias_corrected import BiasCorrected
from vlp_bench.pruning.solvers.regional import Regional
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.structured.budgets import UnitBudgets
from vlp_bench.pruning.structured.groups import Units
from vlp_bench.pruning.structured.upop import UPop, channels_for_heads

GROUPS, UNITS, WEIGHTS = ("2:4", "4:8"), "units", "weights"
PATTERNS = (WEIGHTS, *GROUPS, UNITS)
NESTED = ("dense", "random", "omp", "lmp", "l2", "lamp", "ri", "snip", "fisher", "pruner_zero", "multiflow_edges")
IN_A_LAYER = {  # whose masks don't depend on the scale of a layer's weights
    *("lmp", "l2", "lamp", "ri", "ria", "wanda", "wanda_bias", "dsnot", "sparsegpt", "thanos", "alps", "erk"),
    *("random", "alpha_pruning"),
}
BY_PLACE = {
    "dense": "keeps all",
    "random": "draws by place",
    "tamp": "chooses tokens by outputs in float32, whose sums depend on the order",
}


def llama():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=40, num_hidden_layers=2, **sizes)).eval()


def sentences():
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(3, 40, (3, 7), generator=generator) for _ in range(2)]
    return [{"input_ids": own, "labels": own} for own in ids]


class Dead(nn.Sequential):
    """Inputs that are always zero, a neuron that never fires, and one that nobody reads."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
        with torch.no_grad():
            self[0].weight[2] = 0
            self[0].bias[2] = -1
            self[2].weight[:, 5] = 0
            self[2].weight[3] = 0


def dead_batches():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, 8, generator=generator)
    x[..., [1, 6]] = 0
    return [(own, torch.randint(3, (6,), generator=generator)) for own in x]


def _ours(tiny):
    def made():
        torch.manual_seed(0)
        return tiny.model().eval()

    return made, tiny.batches


MODELS = {tiny.__name__.rpartition(".")[2]: _ours(tiny) for tiny in (xvlm, blip, clip, dino)}
MODELS |= {"language model": (llama, sentences), "dead channels": (Dead, dead_batches)}


QUICK = "dead channels"  # the others take minutes


@cache
def calibrated(name):
    """One model and one calibration for all methods."""
    build, batches = MODELS[name]
    return Calibration(build(), batches())


@cache
def as_published(name):
    return catalogue.load(name)


def of_units(name):
    pruner = as_published(name)
    return isinstance(pruner.allocate, UnitBudgets) or isinstance(pruner.solve, UPop)


def options_of(name, pattern):
    """The options that give a method a pattern; a sentence where it cannot have it."""
    options, pruner = dict(SHORT.get(name, {})), as_published(name)
    if of_units(name):
        return options if pattern == UNITS else "it is of whole units"
    if pattern == UNITS:
        return "it is of single weights (any score takes units with pruner/allocate=units pruner/solve=units)"
    if pattern == WEIGHTS:
        return options
    key, solve = "solve", pruner.solve
    while isinstance(solve, BiasCorrected | Regional):
        key, solve = f"{key}.solve", solve.solve
    if isinstance(pruner.allocate, Dense):
        return "keeps all weights"
    if len(pruner.schedule(0.5)) > 1:
        return "its steps pass through budgets that are no n of m"
    if not hasattr(solve, "within") or getattr(solve, "ties", "first") != "first":
        return "its solver knows no groups"
    if name == "tamp_equal":
        return "its budgets are what it is about"
    if not isinstance(pruner.allocate, Uniform):
        options = {"allocate": "uniform"} | {key: value for key, value in options.items() if key == "num_batches"}
    return options | {f"{key}.within": pattern}


def cases():
    for name in catalogue.names():
        for pattern in PATTERNS:
            found = options_of(name, pattern)
            if isinstance(found, str):
                yield pytest.param(name, pattern, "", id=f"{name}-{pattern}", marks=pytest.mark.skip(reason=found))
            else:
                for model in MODELS:
                    marks = [] if model == QUICK else [pytest.mark.slow]
                    yield pytest.param(name, pattern, model, id=f"{name}-{pattern}-{model}", marks=marks)


@pytest.mark.parametrize("name, pattern, model", list(cases()))
def test_every_law(name, pattern, model, tmp_path):
    shared = calibrated(model)
    m = int(pattern.partition(":")[2] or 1)
    if odd := [layer for layer, own in shared.layers.items() if own.matrix.shape[1] % m]:
        pytest.skip(f"{odd[0]} has inputs that are no groups of {m}")
    options = options_of(name, pattern)
    levels = [0.3, 0.4] if pattern == UNITS else [0.5] if pattern in GROUPS else [0.5, 0.75]
    before = copy.deepcopy(shared.model.state_dict())
    found = vlp_bench.prune(shared.model, name, levels, shared, options=options)
    again = vlp_bench.prune(
        shared.model, name, levels[:1], Calibration(shared.model, MODELS[model][1]()), options=options
    )
    assert all(tensor.equal(before[key]) for key, tensor in shared.model.state_dict().items()), "the model changed"
    pruner = catalogue.load(name, options)
    for level, solution in found.items():
        exact_budget(pruner, pattern, shared, level, solution)
        groups_hold_n(pattern, shared, solution)
        whole_units(name, pattern, shared, solution)
        saved_weights(shared.model, solution, tmp_path)
    same(found[levels[0]], again[levels[0]])
    monotone(name, list(found.values()))


def exact_budget(pruner, pattern, calibration, level, solution):
    """What the allocator's rule makes of the sparsity; of whole units less than the dearest (or one of each) fewer."""
    sizes = {name: layer.size for name, layer in calibration.layers.items()}
    asked = kept_of(calibration.total, level)
    if pattern == UNITS:
        groups = calibration[Units()]
        groups = channels_for_heads(groups) if isinstance(pruner.solve, UPop) else groups
        assert 0 <= asked - solution.kept < sum(group.cost for group in groups)
    elif isinstance(pruner.allocate, Uniform):
        assert [int(mask.sum()) for mask in solution.masks.values()] == [kept_of(n, level) for n in sizes.values()]
    elif isinstance(pruner.allocate, Dense):
        assert solution.kept == calibration.total
    elif isinstance(pruner.allocate, GlobalThreshold) and pruner.allocate.group_by == "modality":
        totals = {}
        for name, layer in calibration.layers.items():
            totals[layer.place.modality] = totals.get(layer.place.modality, 0) + sizes[name]
        assert solution.kept == sum(kept_of(total, level) for total in totals.values())
    else:
        assert solution.kept == asked


def groups_hold_n(pattern, calibration, solution):
    if pattern in GROUPS:
        n, m = map(int, pattern.split(":"))
        for name, mask in solution.masks.items():
            own = calibration.layers[name].from_stored(mask)
            assert (own.reshape(len(own), -1, m).sum(2) == n).all()


def whole_units(name, pattern, calibration, solution):
    """A unit is there with all of its places, or gone with all of them, in every layer of its group."""
    if pattern == UNITS:
        groups = calibration[Units()]
        for group in channels_for_heads(groups) if name == "upop" else groups:
            own = [part.slices.by_unit(group.units, solution.masks[part.layer.name]).flatten(1) for part in group.parts]
            assert all(mask.all(1).equal(mask.any(1)) and mask.all(1).equal(own[0].all(1)) for mask in own)


def saved_weights(model, solution, folder):
    """Saved and read again: what the mask leaves out is zero, all is finite, and what is neither pruned nor corrected
    is as it was; the masks themselves come back from their file."""
    pruned = copy.deepcopy(model)
    solution.install(pruned)
    save_file({name: p.detach().clone() for name, p in pruned.named_parameters()}, folder / "weights.safetensors")
    stored = load_file(folder / "weights.safetensors")
    dense = dict(model.named_parameters())
    for name, tensor in stored.items():
        assert torch.isfinite(tensor).all()
        if name in solution.masks:
            assert not tensor[~solution.masks[name]].any()
            if name not in solution.weights:
                assert tensor[solution.masks[name]].equal(dense[name].detach()[solution.masks[name]])
        elif name not in solution.biases:
            assert tensor.equal(dense[name].detach())
    solution.save(folder / "masks.safetensors")
    read = Solution.load(folder / "masks.safetensors")
    assert all(read.masks[name].equal(mask) for name, mask in solution.masks.items())
    assert all(read.weights[name].equal(values) for name, values in solution.weights.items())


def same(one, other):
    assert all(mask.equal(other.masks[name]) for name, mask in one.masks.items())
    assert all(values.equal(other.weights[name]) for name, values in one.weights.items())
    assert all(values.equal(other.biases[name]) for name, values in one.biases.items())


def monotone(name, solutions):
    """More is gone at more sparsity; where one order of weights is promised, the same and more."""
    if len(solutions) > 1 and name != "dense":
        assert solutions[1].kept < solutions[0].kept
    if len(solutions) > 1 and name in NESTED:
        assert all(not (mask & ~solutions[0].masks[key]).any() for key, mask in solutions[1].masks.items())


def classifier(order, dtype=torch.float64):
    """A linear classifier of three classes in this order, with its batches."""
    torch.manual_seed(1)
    model = nn.Linear(6, 3).to(dtype)
    batches = [(torch.randn(4, 6, dtype=dtype), torch.randint(3, (4,))) for _ in range(3)]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter[order].clone())
    return model, [(x, order.argsort()[y]) for x, y in batches]


@pytest.mark.parametrize("name", [name for name in catalogue.names() if not of_units(name)])
def test_permuted_outputs_permute_the_mask(name):
    if name in BY_PLACE:
        pytest.skip(BY_PLACE[name])
    order = torch.tensor([2, 0, 1])
    plain, permuted = (
        vlp_bench.prune(model, name, 0.5, batches, options=SHORT.get(name))
        for model, batches in (classifier(torch.arange(3)), classifier(order))
    )
    assert permuted.masks["weight"].equal(plain.masks["weight"][order])


@pytest.mark.parametrize("name", sorted(IN_A_LAYER))
@pytest.mark.parametrize("pattern", [WEIGHTS, *GROUPS])
def test_the_scale_of_a_layer_changes_no_mask(name, pattern):
    options = options_of(name, pattern)
    if isinstance(options, str):
        pytest.skip(options)
    torch.manual_seed(0)
    model, batches = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 8)), [torch.randn(20, 16)]
    plain = vlp_bench.prune(model, name, 0.5, batches, options=options)
    with torch.no_grad():
        model[0].weight.mul_(4)
        model[0].bias.mul_(4)
    scaled = vlp_bench.prune(model, name, 0.5, batches, options=options)
    assert all(mask.equal(scaled.masks[key]) for key, mask in plain.masks.items())
