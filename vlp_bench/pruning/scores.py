"""Scores: functions `(layer, calibration) -> (d_out, d_in)`; the larger survives. Each stands beside its equation.

The first half are the equations on plain tensors, the second half fetch what an equation needs.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from vlp_bench.pruning.checks import Compat, Count, NotNegative
from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.statistics.block_gradients import BlockGradients
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.gradients import FisherDiagonal, MeanGradient, MeanGradientMagnitude
from vlp_bench.pruning.statistics.inputs import InputNorms

Score = Callable[[Layer, Calibration], Tensor]
Order = Literal["l1", "l2"]  # of a norm


def share_of_norm(w: Tensor) -> Tensor:
    """|w| / ‖W‖_F; zero in a layer of zeros."""
    return w.abs() / w.norm().clamp_min(torch.finfo(w.dtype).tiny)


def share_of_rest(w: Tensor) -> Tensor:
    """w_u² / Σ_{v ≥ u} w_v² with the weights in ascending order of size (LAMP, Lee et al., ICLR 2021, Eq. 3).

    Of equal weights the earlier one counts as the smaller. Zero in a layer of zeros; sums in float64.
    """
    sizes, order = w.flatten().abs().sort(stable=True)
    return torch.empty_like(sizes).scatter_(0, order, ascending_shares_of_rest(sizes)).view_as(w)


def ascending_shares_of_rest(sizes: Tensor, above: float | Tensor = 0.0) -> Tensor:
    """LAMP's scores (n,) of one layer's weights in ascending order of |w|, which is the order of the scores.

    `above` is the sum of squares of all larger weights, if these are not the largest.
    """
    scores = torch.empty_like(sizes)
    pieces = (tensor.split(1 << 15 if sizes.device.type == "cpu" else 1 << 25) for tensor in (sizes, scores))
    for part, piece in reversed(list(zip(*pieces, strict=True))):  # the largest first; what a cache holds at a time
        squares = part.double().square_()
        rest = squares.flip(0)
        rest[:1] += above
        above = rest.cumsum_(0)[-1:].clone()
        piece.copy_(squares.div_(rest.flip(0).clamp_min_(torch.finfo(squares.dtype).tiny)))
    return scores


def flow(w: Tensor, norm: Tensor) -> Tensor:
    """|w| times the saliency of the two neurons it joins (MULTIFLOW, Farina et al., CVPR 2024, Eq. 6).

    w (d_out, d_in), norm (d_in,): the length of the inputs of each feature.
    """
    edges = (w * norm).abs_()
    outputs, inputs = edges.mean(1, keepdim=True), edges.mean(0, keepdim=True)
    return torch.mul(outputs, w, out=edges).abs_().mul_(inputs)  # one matrix beside w, and no other


def nodes(w: Tensor, norm: Tensor) -> Tensor:
    """The saliency of the two joined neurons alone (MULTIFLOW's supplement, Table 8)."""
    edges = (w * norm).abs_()
    return edges.mean(1, keepdim=True) * edges.mean(0, keepdim=True)


def relative_importance(w: Tensor) -> Tensor:
    """|w_ij| / Σ_k |w_kj| + |w_ij| / Σ_k |w_ik|: its shares of column and row; zero in rows and columns of zeros."""
    sizes, tiny = w.abs(), torch.finfo(w.dtype).tiny
    return sizes / sizes.sum(0).clamp_min(tiny) + sizes / sizes.sum(1, keepdim=True).clamp_min(tiny)


def from_zero_to_one(g: Tensor) -> Tensor:
    """(g - min) / (max - min); ones where all are equal."""
    least, most = g.aminmax()
    return (g - least) / (most - least) if most > least else torch.ones_like(g)


def magnitude(layer: Layer, calibration: Calibration) -> Tensor:
    """|w|."""
    return layer.matrix.abs()


def random(layer: Layer, calibration: Calibration, *, seed: int = 0) -> Tensor:
    """Standard normal draws of a generator of the layer's own, made of `seed` and its name."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {layer.name}".encode()))
    return torch.randn(layer.matrix.shape, generator=generator).to(layer.weight.device)


def l2_normalised(layer: Layer, calibration: Calibration) -> Tensor:
    """|w| / ‖W‖_F."""
    return share_of_norm(layer.matrix)


def lamp(layer: Layer, calibration: Calibration) -> Tensor:
    """w_u² / Σ_{v ≥ u} w_v² (LAMP)."""
    return share_of_rest(layer.matrix)


def snip(layer: Layer, calibration: Calibration) -> Tensor:
    """|g · w| with g the mean gradient (SNIP, Lee et al., ICLR 2019, Eq. 6, up to a factor common to all layers)."""
    return (calibration[MeanGradient()][layer.name] * layer.matrix).abs_()


def force(layer: Layer, calibration: Calibration) -> Tensor:
    """|g · w⁰|: the weight before the first step, the gradient after the last (FORCE, de Jorge et al., ICLR 2021)."""
    return (calibration[MeanGradient()][layer.name] * calibration.original(layer)).abs_()


def obd(layer: Layer, calibration: Calibration) -> Tensor:
    """|w| times the mean |g| over batches (ECoFLaP's iterative OBD baseline)."""
    return (calibration[MeanGradientMagnitude()][layer.name] * layer.matrix).abs_()


def fisher(layer: Layer, calibration: Calibration) -> Tensor:
    """w² F with F the diagonal of the empirical Fisher matrix (optimal brain damage, LeCun et al., NeurIPS 1989).

    Twice what the loss rises without the weight, to second order, where F stands for the Hessian's diagonal.
    """
    return layer.matrix.square() * calibration[FisherDiagonal()][layer.name]


def signed(layer: Layer, calibration: Calibration) -> Tensor:
    """w itself: all negative weights go first. ECoFLaP's released code calls this global magnitude pruning."""
    return layer.matrix


def wanda(layer: Layer, calibration: Calibration, *, compat: Compat = "corrected") -> Tensor:
    """|w_ij| · ‖X_j‖ (Wanda, Sun et al., ICLR 2024, Eq. 1)."""
    return (layer.matrix * _norm(layer, calibration, compat)).abs_()


def multiflow(layer: Layer, calibration: Calibration, *, compat: Compat = "corrected") -> Tensor:
    """MULTIFLOW's information flow through an edge."""
    return flow(layer.matrix, _norm(layer, calibration, compat))


def multiflow_nodes(layer: Layer, calibration: Calibration, *, compat: Compat = "corrected") -> Tensor:
    """MULTIFLOW without the edge between the neurons."""
    return nodes(layer.matrix, _norm(layer, calibration, compat))


def ria(layer: Layer, calibration: Calibration, *, exponent: NotNegative = 0.5, compat: Compat = "corrected") -> Tensor:
    """(|w_ij| / Σ_k |w_kj| + |w_ij| / Σ_k |w_ik|) · ‖X_j‖^a (RIA, Zhang et al., ICLR 2024), a = `exponent`."""
    return relative_importance(layer.matrix) * _norm(layer, calibration, compat) ** exponent


def ri(layer: Layer, calibration: Calibration) -> Tensor:
    """|w_ij| / Σ_k |w_kj| + |w_ij| / Σ_k |w_ik|: RIA without data."""
    return relative_importance(layer.matrix)


def gblm(
    layer: Layer,
    calibration: Calibration,
    *,
    order: Order = "l1",
    alpha: NotNegative = 100.0,
    samples: Count = 128,
    compat: Compat = "corrected",
) -> Tensor:
    """|w_ij| · (‖X_j‖ + α ‖G_ij‖) (GBLM-Pruner, Das et al., 2023), G the dense model's gradients.

    ‖G‖ is a sum over samples where ‖X‖² is a mean: the means over our batches stand for `samples` of them.
    """
    return layer.matrix.abs() * (
        _norm(layer, calibration, compat) + alpha * _lengths(layer, calibration, order, samples)
    )


def pruner_zero(layer: Layer, calibration: Calibration, *, order: Order = "l1") -> Tensor:
    """w² · (‖G‖ - min) / (max - min) over the matrix (Pruner-Zero, Dong et al., ICML 2024); w² if all ‖G‖ are equal."""
    return layer.matrix.square() * from_zero_to_one(_lengths(layer, calibration, order, 1))


def wanda_pp(
    layer: Layer, calibration: Calibration, *, alpha: NotNegative = 100.0, compat: Compat = "corrected"
) -> Tensor:
    """|w_ij| · (‖X_j‖ + α G_ij) (Wanda++, Yang et al., Findings of ACL 2025), G of the block's own output."""
    return layer.matrix.abs() * (_norm(layer, calibration, compat) + alpha * calibration[BlockGradients()][layer.name])


def inverted(layer: Layer, calibration: Calibration, *, score: Score) -> Tensor:
    """The smallest scores survive: the mask turned round, at the same budgets (a check that the order matters)."""
    return -score(layer, calibration)


def _lengths(layer: Layer, calibration: Calibration, order: Order, samples: int) -> Tensor:
    """Σ |g| or √Σ g² over the gradients of so many samples, of the model before any block was pruned."""
    dense = calibration.before_sweep
    if order == "l1":
        return samples * dense[MeanGradientMagnitude()][layer.name]
    return (samples * dense[FisherDiagonal()][layer.name]).sqrt_()


def _norm(layer: Layer, calibration: Calibration, compat: Compat) -> Tensor:
    return calibration[InputNorms(compat)][layer.name].to(layer.matrix.dtype)
