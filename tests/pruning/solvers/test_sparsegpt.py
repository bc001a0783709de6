import pytest
import torch
from torch import nn

import vlp_bench
from vlp_bench.pruning.solvers.sparsegpt import SparseGPT
from vlp_bench.pruning.solvers.thanos import Thanos
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.inputs import InputProducts


def published(w, x, sparsity, block_size, damping=0.01, always=True, exact=False):
    """Algorithm 1 written out, in float64: the inverse Hessian is updated by elimination, without any factorisation.

    With `exact` the block's budget is met exactly, else everything up to the threshold goes, as in the released code.
    """
    w, h = w.double().clone(), 2 * x.double().t() @ x.double() / len(x)
    dead = h.diagonal() == 0
    h[dead, dead] = 1
    w[:, dead] = 0
    if always:
        h += damping * h.diagonal().mean() * torch.eye(len(h), dtype=torch.float64)
    inverse, removed = torch.linalg.inv(h), torch.zeros_like(w, dtype=torch.bool)
    curvature = []  # [H⁻¹]_jj of the columns j.. alone
    for j in range(len(h)):
        curvature.append(torch.linalg.inv(h[j:, j:])[0] if j else inverse[0])
    for start in range(0, len(h), block_size):
        stop = min(start + block_size, len(h))
        scores = torch.stack([w[:, j].square() / curvature[j][0] for j in range(start, stop)], 1).flatten()
        count = round(scores.numel() * sparsity) if exact else int(scores.numel() * sparsity) + 1
        goes = torch.zeros_like(scores, dtype=torch.bool)
        goes[scores.sort(stable=True).indices[:count]] = True
        removed[:, start:stop] = goes.view(len(w), -1)
        for j in range(start, stop):
            error = w[:, j].masked_fill(~removed[:, j], 0) / curvature[j][0]
            w[:, j:] -= torch.outer(error, curvature[j])
            w[:, j].masked_fill_(removed[:, j], 0)
    return ~removed, w


def inputs(rows=200, columns=24, rank=None, seed=0):
    g = torch.Generator().manual_seed(seed)
    mixing = torch.randn(rank or columns, columns, generator=g)
    return torch.randn(rows, rank or columns, generator=g) @ mixing


def weights(rows=10, columns=24):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("block_size", [1, 8, 24, 128])
@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.75])
def test_official_is_the_published_algorithm(block_size, sparsity):
    w, x = weights(), inputs().double()
    mask, values = SparseGPT(block_size=block_size, compat="official").solve(w, x.t() @ x, 240 - round(sparsity * 240))
    expected_mask, expected = published(w, x, sparsity, block_size, always=False)
    assert mask.equal(expected_mask)
    torch.testing.assert_close(values, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("block_size", [8, 12, 128])
@pytest.mark.parametrize("columns, rank", [(24, None), (24, 6)])
def test_corrected_meets_its_budget_and_is_damped(block_size, columns, rank):
    w, x = weights(), inputs(rank=rank)
    mask, values = SparseGPT(block_size=block_size).solve(w, x.double().t() @ x.double(), 120)
    expected_mask, expected = published(w, x, 0.5, block_size, exact=True)
    assert mask.sum() == 120
    assert mask.equal(expected_mask)
    torch.testing.assert_close(values, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kept", [0, 1, 7, 119, 233, 239, 240])
@pytest.mark.parametrize("block_size", [1, 7, 128])
def test_budgets_are_exact(kept, block_size):
    x = inputs()
    mask, values = SparseGPT(block_size=block_size).solve(weights(), x.t() @ x, kept)
    assert mask.sum() == kept
    assert not values[~mask].any()


def test_nothing_removed_changes_nothing():
    x = inputs()
    _, values = SparseGPT().solve(weights(), x.t() @ x, 240)
    assert values.equal(weights().double())


def test_outputs_are_nearer_than_with_the_same_mask_alone():
    w, x = weights(), inputs(rank=8)
    mask, values = SparseGPT().solve(w, x.t() @ x, 120)
    error = lambda v: float((x.double() @ (v - w.double()).t()).square().sum())  # noqa: E731
    assert error(values) < error(w.double() * mask) / 2


def test_dead_inputs_go_first_and_official_damps_only_what_fails():
    x = inputs()
    x[:, :4] = 0
    mask, values = SparseGPT().solve(weights(), x.t() @ x, 120)
    assert not values[:, :4].any()
    assert not mask[:, :4].any()
    singular = inputs(rank=3)
    official, _ = SparseGPT(compat="official").solve(weights(), singular.t() @ singular, 120)
    assert official.any()


@pytest.mark.parametrize("solver", [SparseGPT, Thanos])
def test_dead_inputs_have_no_curvature_so_that_the_unit_of_the_others_does_not_matter(solver):
    """As without them, where the same is added to the diagonal: a share of 24 curvatures, four of them 0."""
    x, w = inputs().double(), weights()
    alive = torch.arange(24) % 6 != 0
    x[:, ~alive] = 0
    live = x[:, alive]
    mask, values = solver(damping=0.3 * 20 / 24).solve(w[:, alive], live.t() @ live, 120)
    for unit in (1e-3, 1.0, 1e3):
        found, new = solver(damping=0.3).solve(w, unit**2 * x.t() @ x, 120)
        assert not found[:, ~alive].any()
        assert found[:, alive].equal(mask)
        torch.testing.assert_close((new * found)[:, alive], values * mask, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("unit", [1.0, 0.01])
def test_official_dead_inputs_have_a_curvature_of_one(unit):
    """Of H = 2/N Σ xxᵀ, where the first factorisation fails: two inputs are the same, to the bit."""
    x = torch.randint(-4, 5, (64, 24), generator=torch.Generator().manual_seed(0)) * unit
    x[:, :3], x[:, 4] = 0, x[:, 3]
    w = weights()
    mask, values = SparseGPT(compat="official", damping=0.3).solve(w, x.double().t() @ x.double() / 64, 120)
    expected_mask, expected = published(w, x, 0.5, 128, damping=0.3)
    assert mask.equal(expected_mask)
    torch.testing.assert_close(values * mask, expected, rtol=1e-6, atol=1e-8)


def test_what_is_gone_stays_gone():
    x, alive = inputs(), weights() > 0
    mask, _ = SparseGPT().solve(weights() * alive, x.t() @ x, 60, alive=alive)
    assert not (mask & ~alive).any()


def test_through_the_library():
    torch.manual_seed(0)
    model, batches = nn.Sequential(nn.Linear(24, 10)), [(inputs(),)]
    solution = vlp_bench.prune(model, "sparsegpt", 0.5, batches, options={"block_size": 8})
    mask, values = published(model[0].weight.detach(), inputs(), 0.5, 8, exact=True)
    assert solution.masks["0.weight"].equal(mask)
    torch.testing.assert_close(solution.weights["0.weight"], values.float(), rtol=1e-4, atol=1e-6)
    assert solution.weights["0.weight"].dtype == torch.float32
    solution.install(model)
    assert int((model[0].weight != 0).sum()) == 120


def test_products_by_hand():
    x = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    found = Calibration(nn.Sequential(nn.Linear(2, 2)), [x])[InputProducts()]["0.weight"]
    assert found.tolist() == [[5.0, 1.0], [1.0, 2.0]]


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"block_size": 0}, "block_size must be at least 1, got 0"),
        ({"damping": 0.0}, "damping must be positive, got 0.0"),
        ({"compat": "new"}, "unknown compat 'new'"),
    ],
)
def test_bad_settings(setting, message):
    with pytest.raises(ValueError, match=message):
        SparseGPT(**setting)


def test_official_counts_in_whole_numbers():
    """Of 96 weights n - kept + 1 go for every budget; 1 - kept / n as a float cut once more takes one fewer for 16."""
    w, x = weights(8, 12), inputs(columns=12).double()
    hessian = x.t() @ x
    for kept in range(97):
        mask, _ = SparseGPT(compat="official").solve(w, hessian, kept)
        assert mask.sum() == max(0, kept - 1)
