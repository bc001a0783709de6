import numpy as np
import pytest
import torch
from torch import nn

import vlp_bench
from vlp_bench import Pruner
from vlp_bench.pruning import values
from vlp_bench.pruning.catalogue import load
from vlp_bench.pruning.solvers.alps import ALPS, error
from vlp_bench.pruning.solvers.sparsegpt import SparseGPT
from vlp_bench.pruning.statistics.calibration import Calibration

DAMPING = 0.01


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(10, 14), nn.GELU(), nn.Linear(14, 4))


def batches():
    draw = torch.Generator().manual_seed(2)
    mixing = torch.randn(10, 10, generator=draw)
    return [torch.randn(30, 10, generator=draw) @ mixing for _ in range(3)]


def fitted_by_hand(w, x, mask):
    """Each row by NumPy's least squares: the damping is as many more examples as there are inputs."""
    ridge = DAMPING * np.mean(np.sum(x**2, 0))
    rows = np.vstack([x, np.sqrt(ridge) * np.eye(x.shape[1])])
    found = np.zeros_like(w)
    for own, row, kept in zip(found, w, mask, strict=True):
        own[kept] = np.linalg.lstsq(rows[:, kept], rows @ row, rcond=None)[0]
    return found


def test_every_row_is_the_solution_of_least_squares_on_what_it_keeps():
    draw = torch.Generator().manual_seed(0)
    w, x = torch.randn(9, 12, generator=draw).double(), torch.randn(50, 12, generator=draw).double()
    mask = torch.rand(9, 12, generator=draw) < 0.4
    mask[0], mask[1], mask[2, :] = True, False, torch.arange(12) == 3
    own = values.fit_rows(w, x.T @ x, mask, DAMPING).numpy()
    np.testing.assert_allclose(own, fitted_by_hand(w.numpy(), x.numpy(), mask.numpy()), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(own[0], w[0].numpy())
    assert not own[~mask.numpy()].any()


@pytest.mark.parametrize("name", ["random", "omp", "multiflow", "wanda", "snip", "sparsegpt", "alps"])
def test_any_solver_keeps_its_masks_and_has_these_values(name):
    data = [(x, torch.arange(len(x)) % 4) for x in batches()]
    whole = vlp_bench.prune(network(), name, [0.5, 0.8], data, options={"sweep": "at_once"})
    model = network()
    found = vlp_bench.prune(model, name, [0.5, 0.8], data, options={"values": "least_squares", "sweep": "at_once"})
    x = torch.cat(batches())
    for level in (0.5, 0.8):
        for layer in ("0.weight", "2.weight"):
            mask = found[level].masks[layer]
            assert torch.equal(mask, whole[level].masks[layer])
            seen = x if layer == "0.weight" else model[:2](x).detach()
            wanted = fitted_by_hand(model[int(layer[0])].weight.detach().numpy(), seen.numpy(), mask.numpy())
            np.testing.assert_allclose(found[level].weights[layer].numpy(), wanted, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("solver", [SparseGPT(), ALPS()])
def test_no_solver_finds_better_values_for_its_own_mask(solver):
    calibration = Calibration(network(), batches())
    layer = calibration.layers["0.weight"]
    x = torch.cat(batches()).double()
    products = x.T @ x
    mask, own = solver.solve(layer.matrix, solver.prepared(products) if hasattr(solver, "prepared") else products, 28)
    better = values.fit_rows(layer.matrix, products, mask, solver.damping)
    damped = products + solver.damping * products.diagonal().mean() * torch.eye(10)
    errors = [error(new - layer.matrix.double(), damped) for new in (better, own.double() * mask)]
    assert 0 < errors[0] <= errors[1] * (1 + 1e-9)


def test_block_by_block_each_fits_what_the_pruned_blocks_before_it_give():
    model = network()
    pruner = load("omp", {"values": "least_squares", "sweep": "block_by_block"})
    found = pruner.prune(model, 0.6, batches())
    first = network()
    with torch.no_grad():
        first[0].weight.copy_(found.weights["0.weight"] * found.masks["0.weight"])
    seen = first[:2](torch.cat(batches())).detach().numpy()
    wanted = fitted_by_hand(model[2].weight.detach().numpy(), seen, found.masks["2.weight"].numpy())
    np.testing.assert_allclose(found.weights["2.weight"].numpy(), wanted, rtol=2e-3, atol=2e-4)


def test_the_model_gives_nearer_outputs_and_is_as_sparse():
    model, x = network(), torch.cat(batches())
    dense = model(x).detach()
    left = []
    for options in ({}, {"values": "least_squares"}):
        own = network()
        vlp_bench.prune(own, "wanda", 0.7, batches(), options=options).install(own)
        assert sum(int((m.weight == 0).sum()) for m in own if isinstance(m, nn.Linear)) == 98 + 39
        left.append(float((own(x).detach() - dense).square().mean()))
    assert left[1] < left[0]


def test_values_are_no_part_of_a_pruner_that_has_none():
    assert "values" not in vlp_bench.prune(network(), "wanda", 0.5, batches()).report["settings"]
    own = vlp_bench.prune(network(), "wanda", 0.5, batches(), options={"values": "least_squares"})
    told = {"_target_": "vlp_bench.pruning.values.least_squares", "damping": 0.01, "compat": "corrected"}
    assert own.report["settings"]["values"] == told


def test_what_is_no_fit_is_refused():
    with pytest.raises(ValueError, match="unknown values 'least_square': use one of least_squares"):
        load("wanda", {"values": "least_square"})
    parts = load("wanda")
    with pytest.raises(ValueError, match="values must be a function or an object that can be called: 7"):
        Pruner(allocate=parts.allocate, solve=parts.solve, values=7)
    with pytest.raises(ValueError, match="damping must be positive"):
        load("wanda", {"values": "least_squares", "values.damping": 0}).prune(network(), 0.5, batches())
