"""FORCE against NumPy in float64, and what it shares with SNIP."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import vlp_bench
from tests.pruning.toys import labelled, sequential
from vlp_bench.pruning.pruner import Pruner, describe
from vlp_bench.pruning.schedule import Reviving, exponential

KEPT = {"corrected": lambda s, n: round((1 - s) * n), "official": lambda s, n: n - int(s * n)}


def by_numpy(w, batches, sparsity, path, kept):
    """|w⁰ · g(w⁰ ⊙ m)| of a softmax regression without bias; the mask of every step."""
    mask, masks = np.ones_like(w), []
    for target in path(sparsity):
        gradient = np.zeros_like(w)
        for x, y in ((x.numpy(), y.numpy()) for x, y in batches):
            logits = x @ (w * mask).T
            p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            gradient += (p - np.eye(len(w))[y]).T @ x / len(x) / len(batches)
        order = np.argsort(-np.abs(w * gradient), axis=None)[: kept(target, w.size)]
        mask = np.zeros(w.size)
        mask[order] = 1
        mask = mask.reshape(w.shape)
        masks.append(mask)
    return masks


@pytest.mark.parametrize("compat", ["corrected", "official"])
@pytest.mark.parametrize("name", ["reviving", "reviving_linear"])
def test_parity_with_numpy_and_weights_that_return(name, compat):
    torch.manual_seed(3)
    model = nn.Linear(6, 3, bias=False).double()
    with torch.no_grad():
        model.weight.mul_(5)
    batches = [(x.double(), y) for x, y in labelled(3, 8)]
    w = model.weight.detach().clone()
    path = {
        "reviving": lambda s: [1 - (1 - s) ** (t / 6) for t in range(1, 7)],
        "reviving_linear": lambda s: [s * t / 6 for t in range(1, 7)],
    }[name]
    masks = by_numpy(w.numpy(), batches, 0.7, path, KEPT[compat])
    assert any((later * (1 - earlier)).any() for earlier, later in pairwise(masks))
    found = vlp_bench.prune(model, "force", 0.7, batches, options={"steps": 6, "schedule": name, "compat": compat})
    assert found.masks["weight"].numpy().astype(float).tolist() == masks[-1].tolist()
    assert found.weights == {}
    assert model.weight.equal(w)


def test_one_step_is_snip():
    one, snip = (
        vlp_bench.prune(sequential(), name, 0.6, labelled(), options=options)
        for name, options in (("force", {"steps": 1}), ("snip", None))
    )
    assert all(mask.equal(snip.masks[name]) for name, mask in one.masks.items())


def test_batches_of_its_own_for_each_step():
    asked = []

    class Counts(vlp_bench.PlainAdapter):
        def loss(self, model, batch):
            asked.append(float(batch[0][0, 0]))
            return super().loss(model, batch)

    data = labelled(4)
    vlp_bench.prune(sequential(), "force", 0.5, data, Counts(), options={"steps": 2, "batches_per_step": 2})
    assert asked == [float(x[0, 0]) for x, _ in data]


def test_solvers_that_change_weights_start_from_the_original_ones():
    seen = []

    def halving(calibration, budgets):
        layers = calibration.layers
        seen.append([float(calibration.original(layer).sum()) for layer in layers.values()])
        masks = {name: torch.ones_like(layer.weight, dtype=torch.bool) for name, layer in layers.items()}
        for name, budget in budgets.items():
            masks[name].view(-1)[budget:] = False
        return vlp_bench.pruning.solution.Solved(masks, {name: layer.weight / 2 for name, layer in layers.items()})

    parts = vlp_bench.pruning.catalogue.load("lmp")
    schedule = Reviving(path=partial(exponential, steps=3))
    Pruner(allocate=parts.allocate, solve=halving, schedule=schedule).prune(sequential(), 0.5)
    assert seen[0] == seen[1] == seen[2]
    assert describe(schedule)["path"]["steps"] == 3
