import numpy as np
import pytest
import torch
from torch import nn

import vlp_bench
from tests.models.tiny import xvlm
from vlp_bench.pruning.allocation.uniform import Uniform
from vlp_bench.pruning.pruner import Pruner
from vlp_bench.pruning.scores import magnitude
from vlp_bench.pruning.solvers.bias_corrected import BiasCorrected
from vlp_bench.pruning.solvers.keep_top import KeepTop
from vlp_bench.pruning.solvers.regional import Regional
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.sweep import block_by_block


class Block(nn.Module):
    """Two linear layers that are one block."""

    def __init__(self, width=4, hidden=6):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden, bias=False), nn.Linear(hidden, width, bias=False)

    def forward(self, x):
        return self.fc2(self.fc1(x).relu())


def regional(**options):
    return Pruner(
        allocate=Uniform(), solve=Regional(solve=KeepTop(magnitude, "output"), **options), sweep=block_by_block
    )


def test_one_step_by_hand():
    """Pruned to (3, 0) it gives 3 for 4; RMSprop's first step is ten times lr, which is 1: (4, 1), then (4, 0)."""
    model = nn.Linear(2, 1, bias=False)
    model.weight = nn.Parameter(torch.tensor([[3.0, 1.0]]))
    found = vlp_bench.prune(model, regional(rounds=1, share=1.0, lr=0.1), 0.5, [torch.ones(1, 2)])
    assert found.masks["weight"].tolist() == [[True, False]]
    torch.testing.assert_close(found.weights["weight"], torch.tensor([[4.0, 0.0]]))
    assert model.weight.tolist() == [[3.0, 1.0]]
    found.install(model)
    torch.testing.assert_close(model(torch.ones(1, 2)), torch.tensor([[4.0]]))


def kept(w):
    """Of every row the larger half."""
    ranks = np.argsort(np.argsort(-np.abs(w), axis=1, kind="stable"), axis=1)
    return ranks < w.shape[1] // 2


def transcribed(weights, inputs, rounds, lr):
    """Regional optimisation of blocks in turn, in NumPy float64: prune, a step for every batch, prune at the end."""
    answers = []
    for w1, w2 in weights:
        dense = [np.maximum(x @ w1.T, 0) @ w2.T for x in inputs]
        w1, w2, s1, s2 = w1.copy(), w2.copy(), 0.0, 0.0
        for _ in range(rounds):
            w1, w2 = w1 * kept(w1), w2 * kept(w2)
            for x, target in zip(inputs, dense, strict=True):
                hidden = np.maximum(x @ w1.T, 0)
                error = 2 * (hidden @ w2.T - target)
                g2, g1 = error.T @ hidden, ((error @ w2) * (hidden > 0)).T @ x
                s1, s2 = 0.99 * s1 + 0.01 * g1**2, 0.99 * s2 + 0.01 * g2**2
                w1, w2 = w1 - lr * g1 / (np.sqrt(s1) + 1e-8), w2 - lr * g2 / (np.sqrt(s2) + 1e-8)
        w1, w2 = w1 * kept(w1), w2 * kept(w2)
        answers += [w1, w2]
        inputs = [np.maximum(x @ w1.T, 0) @ w2.T for x in inputs]
    return answers


def test_a_transcription():
    torch.manual_seed(3)
    model = nn.Sequential(Block(), Block()).double()
    batches = [torch.randn(5, 4, dtype=torch.float64) for _ in range(3)]
    found = vlp_bench.prune(model, regional(rounds=3, share=1.0, lr=2e-3), 0.5, batches)
    weights = [(block.fc1.weight.detach().numpy(), block.fc2.weight.detach().numpy()) for block in model]
    expected = transcribed(weights, [x.numpy() for x in batches], 3, 2e-3)
    for (name, mask), own in zip(found.masks.items(), expected, strict=True):
        np.testing.assert_array_equal(mask.numpy(), own != 0, err_msg=name)
        np.testing.assert_allclose((found.weights[name] * mask).numpy(), own, rtol=1e-9, atol=1e-12)


def test_official_gradients_add_up_within_a_round():
    """Batches of one row, x = (1, 1): the second step's gradient is that of both; RMSprop in plain numbers."""
    model = nn.Linear(2, 1, bias=False).double()
    model.weight = nn.Parameter(torch.tensor([[3.0, 1.0]], dtype=torch.float64))
    batches = [torch.ones(1, 2, dtype=torch.float64)] * 2
    found = vlp_bench.prune(model, regional(rounds=1, share=1.0, lr=0.01, compat="official"), 0.5, batches)
    w, square, added = np.array([3.0, 0.0]), 0.0, 0.0
    for _ in batches:
        added = added + 2 * (w.sum() - 4)
        square = 0.99 * square + 0.01 * added**2
        w = w - 0.01 * added / (np.sqrt(square) + 1e-8)
    np.testing.assert_allclose(found.weights["weight"].numpy()[0], [w[0], 0.0], rtol=1e-9)


def test_steps_that_are_too_small_for_bfloat16_add_up():
    """From 3 it's a sixty-fourth to the next number, and steps are a hundredth at first, then ever smaller."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        model = nn.Linear(2, 1, bias=False).to(dtype)
        model.weight = nn.Parameter(torch.tensor([[3.0, 1.0]], dtype=dtype))
        batches = [torch.ones(1, 2, dtype=dtype)] * 20
        pruner = regional(rounds=1, share=1.0, lr=0.001)
        found.append(vlp_bench.prune(model, pruner, 0.5, batches).weights["weight"])
    exact, half = found
    assert half.dtype == torch.bfloat16
    assert exact[0, 0] > 3.06
    torch.testing.assert_close(half.float(), exact, rtol=0, atol=1 / 64)


def loss(model, solution, batches):
    with torch.no_grad():
        wanted = [model(x) for x in batches]
        before = {name: p.clone() for name, p in model.named_parameters()}
        solution.install(model)
        lost = sum(float((model(x) - own).square().sum()) for x, own in zip(batches, wanted, strict=True))
        model.load_state_dict(before)
    return lost


def test_the_block_comes_nearer_to_what_it_gave():
    torch.manual_seed(5)
    model, batches = Block(8, 16), [torch.randn(32, 8) for _ in range(4)]
    lost = [
        loss(model, vlp_bench.prune(model, pruner, 0.5, batches), batches)
        for pruner in (Pruner(allocate=Uniform(), solve=KeepTop(magnitude, "output")), regional(lr=2e-3, rounds=20))
    ]
    assert lost[1] < 0.75 * lost[0]


def test_the_same_seed_draws_the_same_batches():
    torch.manual_seed(5)
    model, batches = Block(8, 16), [torch.randn(8, 8) for _ in range(8)]
    one, same, other = (
        vlp_bench.prune(model, regional(lr=1e-3), 0.5, Calibration(model, batches, seed=seed)).weights["fc1.weight"]
        for seed in (0, 0, 1)
    )
    assert one.equal(same)
    assert not one.equal(other)


def test_any_solver_and_pattern():
    torch.manual_seed(5)
    model, batches = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), [torch.randn(8, 8) for _ in range(2)]
    solve = Regional(solve=BiasCorrected(solve=KeepTop(magnitude, "2:4")), lr=1e-3)
    found = vlp_bench.prune(model, Pruner(allocate=Uniform(), solve=solve, sweep=block_by_block), 0.5, batches)
    assert set(found.biases) == {"0.bias", "1.bias"}
    assert all((mask.view(8, 2, 4).sum(2) == 2).all() for mask in found.masks.values())


def test_a_model_of_several_inputs():
    torch.manual_seed(0)
    model = xvlm.model().eval()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    found = vlp_bench.prune(model, "wanda_pp_ro", 0.75, xvlm.batches(), options={"solve.lr": 1e-4})
    assert found.kept == round(0.25 * found.total)
    assert set(found.weights) == set(found.masks)
    assert all(p.equal(before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("options", [{"rounds": 0}, {"share": 0.0}, {"share": 1.5}, {"lr": 0.0}])
def test_what_is_refused(options):
    ((name, given),) = options.items()
    allowed = {"rounds": "at least 1", "share": "above 0 and at most 1", "lr": "positive"}[name]
    with pytest.raises(ValueError, match=f"^{name} must be {allowed}, got {given}$"):
        Regional(solve=KeepTop(magnitude), **options)
