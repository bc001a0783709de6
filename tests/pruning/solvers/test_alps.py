import numpy as np
import pytest
import torch
from torch import nn

import vlp_bench
from tests.pruning.solvers.test_sparsegpt import inputs, weights
from vlp_bench.pruning.solvers.alps import ALPS, error
from vlp_bench.pruning.solvers.sparsegpt import SparseGPT
from vlp_bench.pruning.statistics.calibration import Calibration


def largest(b, kept, pattern):
    """0/1 in the shape of b (d_in, d_out); groups run along d_in."""
    squares = b.T**2  # rows are outputs
    flat = squares.reshape(-1, pattern[1]) if pattern else squares.reshape(1, -1)
    order = np.argsort(-flat, axis=1, kind="stable")[:, : pattern[0] if pattern else kept]
    found = np.zeros_like(flat)
    np.put_along_axis(found, order, 1, axis=1)
    return found.reshape(squares.shape).T


def published(w, x, kept, pattern=None, iterations=300, steps=10):
    """The released algorithm written out in NumPy, (d_in, d_out) throughout, with solves in place of eigenvectors."""
    w, x = w.double().numpy(), x.double().numpy()
    h = x.T @ x
    h = h + 0.01 * np.mean(np.diag(h)) * np.eye(len(h))
    scale = np.sqrt(np.diag(h))
    h = h / scale[:, None] / scale[None]
    dense = (w * scale).T
    g, rho, grown = h @ dense, 0.1, False
    d, v, b = dense * largest(dense, kept, pattern), np.zeros_like(dense), dense
    before = largest(dense, kept, pattern)
    for i in range(iterations):
        b = np.linalg.solve(h + rho * np.eye(len(h)), g - v + rho * d)
        support = largest(b + v / rho, kept, pattern)
        d = (b + v / rho) * support
        v = v + rho * (b - d)
        if (i + 1) % 3 == 0:
            c, before = np.sum(support != before), support
            if c / kept > 0.1:
                rho, grown = rho * 1.3, True
            elif c / kept > 0.005:
                rho, grown = rho * 1.2, True
            elif grown:
                if c == 0:
                    break
                rho *= 1.1
            else:
                rho /= 5
                if c:
                    d, v = dense * largest(dense, kept, pattern), np.zeros_like(dense)
            rho = min(rho, 1e6)
            if i >= 30 and c / kept < 3e-4:
                break
    support = largest(b, kept, pattern)
    b = b * support
    for column in range(b.shape[1]):  # conjugate gradients, one output at a time
        on = support[:, column] > 0
        a, y, z = h[np.ix_(on, on)], g[on, column], b[on, column]
        r = y - a @ z
        p = r.copy()
        for _ in range(steps):
            if r @ r <= (1e-4 * np.linalg.norm(g[:, column])) ** 2:
                break
            alpha = (r @ r) / (p @ a @ p)
            z, new = z + alpha * p, r - alpha * (a @ p)
            p, r = new + (new @ new) / (r @ r) * p, new
        b[on, column] = z
    return torch.from_numpy(support.T > 0), torch.from_numpy(b.T / scale)


@pytest.mark.parametrize(
    "kept, pattern", [(24, None), (60, None), (120, None), (200, None), (120, (2, 4)), (90, (3, 8))]
)
@pytest.mark.parametrize("rank", [None, 6])
def test_official_is_the_published_algorithm(kept, pattern, rank):
    w, x = weights(), inputs(rank=rank)
    mask, values = ALPS(compat="official").solve(w, x.double().t() @ x.double(), kept, pattern=pattern)
    expected_mask, expected = published(w, x, kept, pattern=pattern)
    assert mask.equal(expected_mask)
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-7)


def test_values_are_those_of_least_squares_on_the_support():
    w, x = weights(), inputs()
    products = x.double().t() @ x.double()
    mask, values = ALPS(steps=200).solve(w, products, 60)
    damped = products + 0.01 * products.diagonal().mean() * torch.eye(24)
    for row, kept, before in zip(values, mask, w.double(), strict=True):
        best = torch.linalg.solve(damped[kept][:, kept], damped[kept] @ before)
        torch.testing.assert_close(row[kept], best, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rank", [8, 16, None])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kept", [96, 192, 480])
def test_the_error_is_at_most_that_of_sparsegpt_and_of_magnitude(rank, seed, kept):
    """On correlated inputs, with 90, 80 and 50 % removed: the objective that all of them have."""
    w, x = weights(20, 48), inputs(400, 48, rank, seed).double()
    products = x.t() @ x
    damped = products + 0.01 * products.diagonal().mean() * torch.eye(48)
    mask, values = ALPS().solve(w, products, kept)
    found = error(values - w, damped)
    _, others = SparseGPT().solve(w, products, kept)
    assert mask.sum() == kept
    assert not values[~mask].any()
    assert found <= error(others - w, damped)
    largest_of_scaled = (w * damped.diagonal().sqrt()).abs()
    plain = w.double() * (largest_of_scaled >= largest_of_scaled.flatten().kthvalue(961 - kept).values)
    assert found <= error(plain - w, damped)


@pytest.mark.parametrize("kept", [0, 1, 119, 239, 240])
def test_budgets_are_exact(kept):
    x = inputs()
    mask, values = ALPS().solve(weights(), x.t() @ x, kept)
    assert mask.sum() == kept
    assert not values[~mask].any()


def test_a_larger_weight_matrix_has_the_same_mask():
    x = inputs()
    small, large = (ALPS().solve(c * weights(), x.t() @ x, 60) for c in (1, 8))
    assert small[0].equal(large[0])
    torch.testing.assert_close(8 * small[1], large[1])


def test_groups_in_a_model():
    torch.manual_seed(0)
    model, batches = nn.Sequential(nn.Linear(24, 10)), [(inputs(),)]
    solution = vlp_bench.prune(model, "alps", 0.5, batches, options={"solve.within": "2:4"})
    assert (solution.masks["0.weight"].view(-1, 4).sum(1) == 2).all()
    assert solution.weights["0.weight"].dtype == torch.float32
    with pytest.raises(ValueError, match=r"2:4 keeps 2 of every 4 weights and '0.weight' should keep 24 of 240"):
        ALPS(within="2:4")(Calibration(model, batches), {"0.weight": 24})


def test_what_is_gone_stays_gone():
    x, alive = inputs(), weights() > 0
    mask, _ = ALPS().solve(weights() * alive, x.t() @ x, 60, alive=alive)
    assert not (mask & ~alive).any()


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"damping": 0.0}, "damping must be positive, got 0.0"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"within": "4:2"}, r"unknown within '4:2': use one of layer, n:m \(as 2:4\)"),
        ({"compat": "new"}, "unknown compat 'new'"),
    ],
)
def test_bad_settings(setting, message):
    with pytest.raises(ValueError, match=message):
        ALPS(**setting)
