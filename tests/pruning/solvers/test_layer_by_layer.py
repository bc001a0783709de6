"""What solvers of a layer have in common."""

import pytest
import torch

from vlp_bench.pruning.solvers.alps import ALPS
from vlp_bench.pruning.solvers.sparsegpt import SparseGPT
from vlp_bench.pruning.solvers.thanos import Thanos


@pytest.mark.parametrize("solver", [SparseGPT(), Thanos(), ALPS()])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_products_that_are_not_finite_are_refused(solver, wrong):
    products = torch.eye(4, dtype=torch.float64)
    products[2, 1] = wrong
    with pytest.raises(ValueError, match="products hold NaN or infinity"):
        solver.solve(torch.ones(3, 4), products, 6)
