"""What solvers have in common that find a layer's mask and new weights from the products of its inputs."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from vlp_bench.pruning.checks import Compat
from vlp_bench.pruning.selection.patterns import Pattern, pattern_of
from vlp_bench.pruning.solution import Solved
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.inputs import InputProducts


@runtime_checkable
class LayerSolver(Protocol):
    """SparseGPT, Thanos, ALPS."""

    @property
    def within(self) -> str: ...

    @property
    def compat(self) -> Compat: ...

    def solve(
        self, w: Tensor, products: Any, kept: int, *, pattern: Pattern | None = None, alive: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mask and new weights (d_out, d_in) float64 of one layer.

        Args:
            w: (d_out, d_in).
            products: (d_in, d_in), of the inputs up to a factor, which doesn't matter, or what the solver has prepared
                of them. ValueError unless finite.
            kept: weights that survive.
            pattern: n and m where they survive by groups.
            alive: (d_out, d_in) bool; what an earlier step removed goes first.
        """
        ...


def layer_by_layer(solver: LayerSolver, calibration: Calibration, budgets: dict[str, int]) -> Solved:
    """Masks and new weights as stored, for the layers that have a budget.

    Where removed weights may return, the weights are those before the first step, the inputs those of the last.
    A solver's `prepared(products)`, where it has one, is asked once for layers that read the same tensors.
    """
    masks, weights, prepare = {}, {}, getattr(solver, "prepared", lambda products: products)
    latest, prepared = None, None
    for name, kept in budgets.items():
        layer = calibration.layers[name]
        products = calibration[InputProducts(solver.compat)][name]
        if products is not latest:
            prepared = None  # gone before the next one is there
            latest, prepared = products, prepare(products)
        pattern, alive = pattern_of(solver.within, layer, kept), calibration.alive.get(name)
        mask, values = solver.solve(calibration.original(layer), prepared, kept, pattern=pattern, alive=alive)
        masks[name] = layer.as_stored(mask)
        weights[name] = layer.as_stored(values.to(layer.weight.dtype))
    return Solved(masks, weights)


def damped(products: Tensor, damping: float) -> Tensor:
    """(d_in, d_in): the products with this share of their mean diagonal added to it; 1 where there was no input."""
    ridge = damping * products.diagonal().mean()
    return products + torch.eye(len(products)).to(products) * (ridge if ridge > 0 else 1.0)


def check_finite(products: Tensor) -> None:
    """ValueError for NaN or infinity; NaN counts as both the smallest and the largest, and nothing is copied."""
    if not all(map(torch.isfinite, products.aminmax())):
        raise ValueError("the inputs' products hold NaN or infinity")
