"""GBLM, Pruner-Zero and Wanda++ against NumPy in float64, and RI."""

import numpy as np
import pytest
import torch
from torch import nn

import vlp_bench
from tests.models.tiny import blip as tiny_blip
from tests.pruning.toys import labelled, sequential
from vlp_bench.pruning import scores
from vlp_bench.pruning.statistics.block_gradients import BlockGradients
from vlp_bench.pruning.statistics.calibration import Calibration


def one_layer():
    torch.manual_seed(0)
    return nn.Linear(6, 3).double()


def batches(count=4, rows=1):
    return [(x.double(), y) for x, y in labelled(count, rows)]


def lengths_and_gradients(model, data):
    """Root of the mean over rows of x², and the gradient of the cross entropy for every batch."""
    w, b = (p.detach().numpy() for p in (model.weight, model.bias))
    squares, gradients = [], []
    for x, y in ((x.numpy(), y.numpy()) for x, y in data):
        logits = x @ w.T + b
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        gradients.append((p - np.eye(3)[y]).T @ x / len(x))
        squares.extend(x**2)
    return np.sqrt(np.mean(squares, 0)), np.array(gradients)


@pytest.mark.parametrize("order, samples", [("l1", 128), ("l2", 128), ("l1", 4)])
def test_gblm(order, samples):
    model = one_layer()
    norm, g = lengths_and_gradients(model, batches())
    size = np.abs(g).sum(0) * samples / 4 if order == "l1" else np.sqrt((g**2).sum(0) * samples / 4)
    expected = np.abs(model.weight.detach().numpy()) * (norm + 100 * size)
    calibration = Calibration(model, batches())
    found = scores.gblm(calibration.layers["weight"], calibration, order=order, samples=samples)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("order", ["l1", "l2"])
def test_pruner_zero(order):
    model = one_layer()
    _, g = lengths_and_gradients(model, batches())
    size = np.abs(g).sum(0) if order == "l1" else np.sqrt((g**2).sum(0))
    expected = model.weight.detach().numpy() ** 2 * (size - size.min()) / (size.max() - size.min())
    calibration = Calibration(model, batches())
    found = scores.pruner_zero(calibration.layers["weight"], calibration, order=order)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-9)
    assert found.min() == 0  # the smallest gradient's, whatever its weight


def test_equal_gradients_tell_nothing():
    assert scores.from_zero_to_one(torch.full((2, 2), 3.0)).tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert scores.from_zero_to_one(torch.tensor([[1.0, 2.0, 5.0]])).tolist() == [[0.0, 0.25, 1.0]]


def test_block_gradients():
    """Of ‖tanh(X Wᵀ + b)‖ row by row; the second block's input is a constant to it."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(2))).double()
    data = [x for x, _ in batches(3, 4)]
    found = Calibration(model, data)[BlockGradients()]
    squares = {name: [] for name in found}
    for x in (x.numpy() for x in data):
        for block, linear in zip(squares.values(), (model[0][0], model[1][0]), strict=True):
            w, b = linear.weight.detach().numpy(), linear.bias.detach().numpy()
            f = np.tanh(x @ w.T + b)
            direction = f / np.linalg.norm(f, axis=1, keepdims=True)
            block.append(((direction * (1 - f**2)).T @ x / len(x)) ** 2)
            x = f
        assert list(squares) == ["0.0.weight", "1.0.weight"]
    for name, block in squares.items():
        np.testing.assert_allclose(found[name].numpy(), np.sqrt(np.mean(block, 0)), rtol=1e-5)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_block_gradients_of_a_frozen_model_with_shared_weights_and_padding():
    torch.manual_seed(0)
    model = tiny_blip.model().eval().requires_grad_(False)
    first, other = tiny_blip.batches()
    found = Calibration(model, [first, other])[BlockGradients()]
    assert all((g >= 0).all() and g.any() for g in found.values())
    assert not any(p.requires_grad for p in model.parameters())
    first.text_ids = torch.where(first.text_atts.bool(), first.text_ids, 3)  # other words where nobody looks
    again = Calibration(model, [first, other])[BlockGradients()]
    for name in found:
        torch.testing.assert_close(again[name], found[name], rtol=1e-4, atol=1e-7)


def test_wanda_pp():
    model = one_layer()
    calibration = Calibration(model, [x for x, _ in batches()])
    layer = calibration.layers["weight"]
    norm, g = calibration.norms()["weight"], calibration[BlockGradients()]["weight"]
    for alpha in (100.0, 0.0):
        expected = layer.matrix.abs() * (norm + alpha * g)
        torch.testing.assert_close(scores.wanda_pp(layer, calibration, alpha=alpha), expected)


def test_ri_is_ria_without_inputs():
    calibration = Calibration(sequential(), labelled())
    layer = calibration.layers["2.weight"]
    torch.testing.assert_close(scores.ri(layer, calibration), scores.ria(layer, calibration, exponent=0.0))
    assert vlp_bench.prune(sequential(), "ri", 0.5).kept == 75


@pytest.mark.parametrize("name", ["gblm", "pruner_zero"])
def test_gradients_are_those_of_the_dense_model(name):
    """Once for all blocks, and a later block's are not changed by those pruned before it."""
    asked = []

    class Counts(vlp_bench.PlainAdapter):
        def loss(self, model, batch):
            asked.append(float((model[0].weight == 0).float().mean()))
            return super().loss(model, batch)

    vlp_bench.prune(sequential(), name, [0.5, 0.8], labelled(), Counts(), options={"sweep": "block_by_block"})
    assert asked == [0.0] * 3


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.attention, self.head = nn.Linear(5, 8), nn.MultiheadAttention(8, 2), nn.Linear(8, 3)

    def forward(self, x):
        h = self.embed(x)
        return self.head(self.attention(h, h, h)[0])


def test_block_gradients_of_an_attention_whose_projections_are_places_of_their_own(monkeypatch):
    """The module reads both weights at once; a pass for the one that is solved first runs it to its end."""
    torch.manual_seed(0)
    model, x, found = Attends(), torch.randn(4, 1, 5), {}
    h = model.embed(x).detach()
    model.attention(h, h, h)[0].norm(dim=-1).mean().backward()
    wanted = model.attention.in_proj_weight.grad.abs()
    model.zero_grad()
    of = BlockGradients.of
    monkeypatch.setattr(BlockGradients, "of", lambda self, cal: found.setdefault(tuple(cal.layers), of(self, cal)))
    adapter = Images()
    dense = {"allocate": "everything"}
    vlp_bench.prune(model, "wanda_pp", 0.5, [x], adapter, options=dense)
    assert list(found) == [
        ("embed.weight",), ("attention.in_proj_weight",), ("attention.out_proj.weight",), ("head.weight",)
    ]  # fmt: skip
    got = found["attention.in_proj_weight",]["attention.in_proj_weight"]
    torch.testing.assert_close(got, wanted)


class Images(vlp_bench.PlainAdapter):
    def rows(self, batch):
        return len(batch)
