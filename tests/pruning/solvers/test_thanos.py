import numpy as np
import pytest
import torch
from torch import nn

import vlp_bench
from tests.pruning.solvers.test_sparsegpt import inputs, weights
from vlp_bench.pruning.solvers.thanos import Thanos


def published(w, x, kept, block_size, pattern=None):
    """Written out in NumPy: one row, one block, one inverse at a time."""
    w, x = w.double().numpy().copy(), x.double().numpy()
    h = x.T @ x
    lengths = np.sqrt(np.diag(h))
    w[:, lengths == 0] = 0
    h = h + 0.01 * np.mean(np.diag(h)) * np.eye(len(h))
    gone, todo = np.zeros(w.shape, bool), w.size - kept
    for start in range(0, len(h), block_size):
        stop = min(start + block_size, len(h))
        scores = np.abs(w) * lengths
        marked = np.zeros(w.shape, bool)
        if pattern:
            n, m = pattern
            for i in range(len(w)):
                for j in range(start, stop, m):
                    marked[i, j + np.argsort(-scores[i, j : j + m], kind="stable")[n:]] = True
        else:
            rest = scores[:, start:]
            order = np.argsort(-rest.ravel(), kind="stable")[rest.size - (todo - gone.sum()) :]
            marked[:, start:] = np.isin(np.arange(rest.size), order).reshape(rest.shape)
        marked[:, stop:] = False
        inverse = np.linalg.inv(h[start:, start:])
        for i in range(len(w)):
            at = np.flatnonzero(marked[i, start:])
            if len(at):
                r = inverse[at]
                w[i, start:] -= np.linalg.solve(r[:, at].T, w[i, start + at]) @ r
        gone |= marked
        w[gone] = 0
    return torch.from_numpy(~gone), torch.from_numpy(w)


@pytest.mark.parametrize("block_size", [1, 8, 10, 128])
@pytest.mark.parametrize("kept", [60, 120, 180])
@pytest.mark.parametrize("rank", [None, 6])
def test_it_is_the_published_algorithm(block_size, kept, rank):
    w, x = weights(), inputs(rank=rank)
    mask, values = Thanos(block_size=block_size).solve(w, x.double().t() @ x.double(), kept)
    expected_mask, expected = published(w, x, kept, block_size)
    assert mask.equal(expected_mask)
    torch.testing.assert_close(values, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("pattern", [(2, 4), (4, 8), (3, 8), (1, 2)])
@pytest.mark.parametrize("block_size", [8, 16])
def test_groups(pattern, block_size):
    w, x = weights(), inputs()
    within = f"{pattern[0]}:{pattern[1]}"
    kept = 240 * pattern[0] // pattern[1]
    mask, values = Thanos(block_size=block_size, within=within).solve(
        w, x.double().t() @ x.double(), kept, pattern=pattern
    )
    expected_mask, expected = published(w, x, kept, block_size, pattern)
    assert (mask.view(-1, pattern[1]).sum(1) == pattern[0]).all()
    assert mask.equal(expected_mask)
    torch.testing.assert_close(values, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kept", [0, 1, 7, 119, 239, 240])
@pytest.mark.parametrize("block_size", [1, 7, 128])
def test_budgets_are_exact(kept, block_size):
    x = inputs()
    x[:, 3] = 0
    mask, values = Thanos(block_size=block_size).solve(weights(), x.t() @ x, kept)
    assert mask.sum() == kept
    assert not values[~mask].any()
    assert values.isfinite().all()


def test_outputs_are_nearer_than_with_the_same_mask_alone():
    w, x = weights(), inputs(rank=8)
    mask, values = Thanos().solve(w, x.t() @ x, 120)
    error = lambda v: float((x.double() @ (v - w.double()).t()).square().sum())  # noqa: E731
    assert error(values) < error(w.double() * mask) / 2


def test_what_is_gone_stays_gone():
    x, alive = inputs(), weights() > 0
    mask, _ = Thanos(block_size=8).solve(weights() * alive, x.t() @ x, 60, alive=alive)
    assert not (mask & ~alive).any()


def test_through_the_library():
    torch.manual_seed(0)
    model, batches = nn.Sequential(nn.Linear(24, 10)), [(inputs(),)]
    options = {"block_size": 8, "solve.within": "2:4"}
    solution = vlp_bench.prune(model, "thanos", 0.5, batches, options=options)
    mask, values = published(model[0].weight.detach(), inputs(), 120, 8, (2, 4))
    assert solution.masks["0.weight"].equal(mask)
    torch.testing.assert_close(solution.weights["0.weight"], values.float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"block_size": 0}, "block_size must be at least 1, got 0"),
        ({"block_size": 6, "within": "2:4"}, "block_size must hold whole groups of 2:4, got 6"),
        ({"damping": 0.0}, "damping must be positive, got 0.0"),
        ({"within": "row"}, "unknown within 'row'"),
    ],
)
def test_bad_settings(setting, message):
    with pytest.raises(ValueError, match=message):
        Thanos(**setting)
