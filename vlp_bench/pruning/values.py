"""New values for the weights that stay: functions of a calibration and the masks; any solver's choice can have them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from vlp_bench.pruning.checks import Compat, Positive, check_positive, name_of
from vlp_bench.pruning.said_once import warn_once
from vlp_bench.pruning.solution import Solved
from vlp_bench.pruning.solvers.layer_by_layer import check_finite, damped
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.inputs import InputProducts
from vlp_bench.pruning.sweep import Solve

log = logging.getLogger(__name__)
Fit = Callable[[Calibration, Mapping[str, Tensor]], dict[str, Tensor]]  # (statistics, masks) -> weights, both as stored


def fitted(fit: Fit, solve: Solve) -> Solve:
    """The solver's choice with other values; those that it gives itself are dropped, and biases too, with a warning."""

    def solved(calibration: Calibration, budgets: dict[str, int]) -> Solved:
        own = solve(calibration, budgets)
        if own.biases:
            said = f"biases stay as they are: {name_of(fit)} takes the place of what the solver makes up with them"
            warn_once(log, calibration.model, said)
        return replace(own, weights=fit(calibration, own.masks), biases={})

    return solved


def least_squares(
    calibration: Calibration, masks: Mapping[str, Tensor], *, damping: Positive = 0.01, compat: Compat = "corrected"
) -> dict[str, Tensor]:
    """min ‖X(W - W')‖² over the weights that stay, exactly, row by row and in float64.

    The problem is that of Boža (Fast and Effective Weight Update for Pruned LLMs, TMLR 2024), who comes near its
    solution by alternating directions; here each row's normal equations are solved. d_out systems of the size of what
    stays in a row: a layer takes some d_out·k³/3 products.

    Args:
        calibration: of the weights before pruning; asked for the products of the layers' inputs. W is what they are
            there, and before the first step where removed weights may return.
        masks: by layer, as stored.
        damping: share of the inputs' mean energy added to the diagonal, as in SparseGPT. Above 0.
        compat: of the inputs' products.

    Raises:
        ValueError: damping is not positive or too small for the inputs, or their products hold NaN or infinity.
    """
    check_positive(damping=damping)
    weights = {}
    for name, mask in masks.items():
        layer = calibration.layers[name]
        products = calibration[InputProducts(compat)][name]
        check_finite(products)
        try:
            values = fit_rows(calibration.original(layer), products, layer.from_stored(mask), damping)
        except ArithmeticError:
            raise ValueError(
                f"the inputs of {name!r} depend on each other too much for values.damping={damping:g}: use more, "
                "as 0.01"
            ) from None
        weights[name] = layer.as_stored(values.to(layer.weight.dtype))
    return weights


def fit_rows(w: Tensor, products: Tensor, mask: Tensor, damping: float) -> Tensor:
    """(d_out, d_in) float64: the values of a layer's kept weights, zero elsewhere; a row that keeps all is as it was.

    Args:
        w: (d_out, d_in).
        products: (d_in, d_in), of the inputs.
        mask: (d_out, d_in) bool, what stays.
        damping: share of the mean of the products' diagonal added to it.

    Raises:
        ArithmeticError: the damped products aren't positive definite.
    """
    hessian, dense = damped(products.double(), damping), w.double()
    target, values = dense @ hessian, dense * mask
    failed = torch.zeros((), dtype=torch.int32, device=w.device)
    for row, count in enumerate(mask.sum(1).tolist()):
        if 0 < count < mask.shape[1]:
            kept = mask[row].nonzero()[:, 0]
            factor, reason = torch.linalg.cholesky_ex(hessian[kept].index_select(1, kept))
            values[row, kept] = torch.cholesky_solve(target[row, kept, None], factor)[:, 0]
            failed |= reason
    if failed:
        raise ArithmeticError("the damped products aren't positive definite")
    return values
