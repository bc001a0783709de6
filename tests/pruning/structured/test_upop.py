import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import vlp_bench
from tests.models.tiny import blip, clip, xvlm
from vlp_bench.pruning.allocation.uniform import GlobalBudget
from vlp_bench.pruning.pruner import Pruner
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.structured.groups import Units, masks_of
from vlp_bench.pruning.structured.upop import Gates, UPop, channels_for_heads, progress


def network(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    return model, [(torch.randn(6, 3, dtype=torch.float64), torch.randint(2, (6,))) for _ in range(2)]


def test_progress_by_hand():
    assert [progress(t, 4) for t in (0, 2, 4)] == pytest.approx([0, math.sqrt(0.5), 1])
    assert progress(1, 3) == pytest.approx(math.sin(math.pi / 6))


def test_competition_by_hand():
    """Gradients 1, 3, 2, 2: neuron 1 goes first (5 weights each), of equals the earlier; one always stays."""
    model, _ = network()
    gates = Gates(Calibration(model)[Units()])
    (name,) = gates.gradients
    gates.gradients[name] = torch.tensor([1.0, 3.0, 2.0, 2.0])
    assert gates.compete(10, 0.4)[name].tolist() == [True, False, True, True]  # 4 of 10 weights: one unit
    assert gates.values[name].tolist() == pytest.approx([1, 0.6, 1, 1])
    assert gates.compete(10, 1.0)[name].tolist() == [True, False, False, True]
    assert gates.values[name].tolist() == [1, 0, 0, 1]
    assert gates.compete(15, 1.0)[name].tolist() == [True, False, False, False]
    with pytest.raises(ValueError, match="16 weights should go, and the units hold 15"):
        gates.compete(16, 1.0)


def test_kinds_are_standardised_apart():
    gates = Gates(channels_for_heads(Calibration(xvlm.model())[Units()]))
    torch.manual_seed(0)
    for group in gates.groups:
        gates.gradients[group.name] = torch.randn(group.units) * (100 if group.group.what == "channels" else 1)
    for kind in ("channels", "neurons"):
        own = [s for s, group in zip(gates.standardised(), gates.groups, strict=True) if group.group.what == kind]
        assert float(torch.cat(own).mean()) == pytest.approx(0, abs=1e-9)
        assert float(torch.cat(own).std()) == pytest.approx(1)


def transcribed(model, batches, epochs, every, lr, decay, asked):
    """The search in NumPy float64: two layers, cross-entropy, AdamW on both weights, gates on the neurons."""
    (w1, b1), (w2, b2) = ([p.detach().numpy().copy() for p in model[i].parameters()] for i in (0, 2))
    gates, sums, moments, step, steps = np.ones(4), np.zeros(4), [[0, 0], [0, 0]], 0, epochs * len(batches)

    def gone(share):
        order = np.argsort(-sums, kind="stable")
        return order[: math.ceil(share * asked / 5 - 1e-12)]

    for _ in range(epochs):
        for x, y in ((x.numpy(), y.numpy()) for x, y in batches):
            hidden = np.maximum(x @ w1.T + b1, 0)
            logits = (hidden * gates) @ w2.T + b2
            p = np.exp(logits - logits.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            d = (p - np.eye(2)[y]) / len(y)
            back = d @ w2
            sums += (back * hidden).sum(0)
            g1, g2, step = ((back * gates) * (hidden > 0)).T @ x, d.T @ (hidden * gates), step + 1
            for w, g, m in ((w1, g1, moments[0]), (w2, g2, moments[1])):
                m[0], m[1] = 0.9 * m[0] + 0.1 * g, 0.999 * m[1] + 0.001 * g**2
                w *= 1 - lr * decay
                w -= lr * (m[0] / (1 - 0.9**step)) / (np.sqrt(m[1] / (1 - 0.999**step)) + 1e-8)
            if step % every == 0 and step < steps:
                share = math.sqrt((1 - math.cos(math.pi * step / steps)) / 2)
                gates = np.ones(4)
                gates[gone(share)] = 1 - share
    return sorted(gone(1.0)), w1, w2


def test_a_transcription():
    model, batches = network(3)
    solve = UPop(epochs=4, every=3, lr=0.05, decay=0.1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    found = vlp_bench.prune(model, Pruner(allocate=GlobalBudget(), solve=solve), 0.5, batches)
    assert all(p.equal(before[name]) for name, p in model.named_parameters())
    gone, w1, w2 = transcribed(model, batches, 4, 3, 0.05, 0.1, 10)
    assert sorted((~found.masks["0.weight"].any(1)).nonzero().flatten().tolist()) == gone
    assert sorted((~found.masks["2.weight"].any(0)).nonzero().flatten().tolist()) == gone
    np.testing.assert_allclose(found.weights["0.weight"].numpy(), w1 * found.masks["0.weight"].numpy(), rtol=1e-6)
    np.testing.assert_allclose(found.weights["2.weight"].numpy(), w2 * found.masks["2.weight"].numpy(), rtol=1e-6)


def test_steps_that_are_too_small_for_bfloat16_add_up():
    """A weight of 0.5 to 1 has a next one in 1/256, and a step is a thousandth."""
    model, batches = network(3)
    model, batches = model.bfloat16(), [(x.bfloat16(), y) for x, y in batches]
    exact = [(x.double(), y) for x, y in batches]
    solve = UPop(epochs=20, every=100, lr=1e-3, decay=0.0)
    _, w1, w2 = transcribed(copy.deepcopy(model).double(), exact, 20, 100, 1e-3, 0.0, 5)
    found = vlp_bench.prune(model, Pruner(allocate=GlobalBudget(), solve=solve), 0.25, batches)
    for name, expected in (("0.weight", w1), ("2.weight", w2)):
        kept = expected * found.masks[name].numpy()
        np.testing.assert_allclose(found.weights[name].float().numpy(), kept, rtol=0, atol=5e-3)


@pytest.mark.parametrize("tiny", [xvlm, blip, clip], ids=["xvlm", "blip", "clip"])
def test_channels_are_the_same_places_of_every_head(tiny):
    torch.manual_seed(0)
    model = tiny.model().eval()
    found = vlp_bench.prune(model, "upop", 0.3, tiny.batches(), options={"solve.epochs": 1})
    calibration = Calibration(model)
    assert 0 <= 0.7 * found.total - found.kept <= max(group.cost for group in calibration[Units()]) + 1
    for group in channels_for_heads(calibration[Units()]):
        alive = [part.slices.by_unit(group.units, found.masks[part.layer.name]).float().mean(1) for part in group.parts]
        for own in alive:  # a unit has all of its own places or none, the same in every layer of the group
            assert set(own.tolist()) <= {0.0, 1.0}
            assert own.equal(alive[0])


def test_what_is_gone_is_what_closed_gates_leave_out():
    """Outputs with the closed channels' and neurons' weights at zero are those with their gates at zero."""
    torch.manual_seed(0)
    model = clip.model().eval()
    batches, calibration = clip.batches(), Calibration(model, clip.batches())
    gates = Gates(channels_for_heads(calibration[Units()]))
    for values in gates.gradients.values():
        values.copy_(torch.randn(len(values)))
    keep = gates.compete(round(0.4 * calibration.total), 1.0)
    with gates.installed(calibration), torch.no_grad():
        gated = float(calibration.adapter.loss(model, batches[0]))
    for name, mask in masks_of(gates.groups, keep, calibration.layers).items():
        calibration.layers[name].weight.data.mul_(mask)
    with torch.no_grad():
        assert float(calibration.adapter.loss(model, batches[0])) == pytest.approx(gated, rel=1e-5)


def test_published_costs():
    """Two heads: 6 for a channel, 1 for a neuron; half of all costs goes, whatever that is in weights."""
    torch.manual_seed(0)
    model = clip.model().eval()
    gates = Gates(channels_for_heads(Calibration(model)[Units()]), "official")
    assert set(zip(gates.costs, (g.group.what for g in gates.groups), strict=True)) == {(6, "channels"), (1, "neurons")}
    found = vlp_bench.prune(model, "upop", 0.3, clip.batches(), options={"solve.epochs": 1, "compat": "official"})
    masks = {part.layer.name: part for group in gates.groups for part in group.parts}
    assert set(masks) == set(found.masks)
    gone = 0
    for cost, group in zip(gates.costs, gates.groups, strict=True):
        part = group.parts[0]
        gone += cost * int((~part.slices.by_unit(group.units, found.masks[part.layer.name]).any(1)).sum())
    total = sum(cost * group.units for cost, group in zip(gates.costs, gates.groups, strict=True))
    assert -1 < gone - 0.3 * total < 7  # the share is one of whole weights


@pytest.mark.parametrize("options", [{"epochs": 0}, {"every": 0}, {"lr": 0.0}, {"decay": -1.0}])
def test_what_is_refused(options):
    ((name, given),) = options.items()
    allowed = {"lr": "positive", "decay": "at least 0"}.get(name, "at least 1")
    with pytest.raises(ValueError, match=f"^{name} must be {allowed}, got {given}$"):
        UPop(**options)
