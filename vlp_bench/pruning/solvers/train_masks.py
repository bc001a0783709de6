"""TAMT: trains a real number for every weight; the weights with the largest survive (Liu et al., NAACL 2022)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vlp_bench.pruning.checks import Compat, check_compat, check_positive
from vlp_bench.pruning.layers import Layer, preserve_weights
from vlp_bench.pruning.selection.thresholds import keep_largest, kept_per_layer
from vlp_bench.pruning.solution import Solved
from vlp_bench.pruning.statistics.calibration import Calibration

log = logging.getLogger(__name__)
Numbers = dict[str, Tensor]  # by layer, in the parameters' shapes
START = 0.02  # of the weights that are kept at first; the others start from 0
DECAY = 0.01  # of the released program, torch's default


@dataclass(frozen=True, kw_only=True)
class TrainMasks:
    """Every weight gets a number m; w·1[m among its layer's largest] is trained with a straight-through gradient for m.

    m starts at 0.02 for the largest weights of each layer and at 0 for the others. One AdamW step for each batch, in
    training mode, the learning rate decaying linearly to zero; weights don't change. Each layer keeps its budget in
    every step, where the original sets its thresholds anew now and then. A number moves by some lr·(steps + 1)/2 in
    all, so that about 400 batches are needed at the default lr before a removed weight can overtake a kept one; where
    none has, the masks are layer-wise magnitude's, and a warning says so.

    Args:
        lr: learning rate of the first step.
        compat: "official" is the version released with MULTIFLOW: |m| in place of m, twice the global threshold on |w|
            in place of 0.02, one threshold for the model, weight decay 0.01. Numbers that start at 0 never move, and
            the first step removes everything: what remains is layer-wise magnitude pruning up to ties.
    """

    lr: float = 5e-5
    compat: Compat = "corrected"

    def __post_init__(self) -> None:
        check_compat(self.compat)
        check_positive(lr=self.lr)

    def __call__(self, calibration: Calibration, budgets: dict[str, int]) -> Solved:
        """Masks as stored, of all layers."""
        layers = calibration.layers
        if sum(budgets.values()) == calibration.total:
            return Solved({name: torch.ones_like(layer.weight, dtype=torch.bool) for name, layer in layers.items()}, {})
        weights = {
            name: layer.as_stored(calibration.original(layer)).detach().clone() for name, layer in layers.items()
        }
        numbers = self._start(weights, budgets)
        first = self._masks(numbers, budgets)
        with preserve_weights(layers):
            masks = self._train(calibration, weights, numbers, budgets, first)
        if self.compat == "corrected" and all(mask.equal(first[name]) for name, mask in masks.items()):
            self._warn_of_too_few_steps(calibration.count()[0])
        return Solved(masks, {})

    def may_keep(self, layer: Layer, budget: int) -> range:
        """How many of a layer's weights. Official: any number, as one threshold holds for the model."""
        return range(layer.size + 1) if self.compat == "official" else range(budget, budget + 1)

    def may_keep_in_all(self, total: int) -> range:
        """The sum of the budgets. Official: less by what ties with the last removed."""
        return range(0 if self.compat == "official" else total, total + 1)

    def _start(self, weights: Numbers, budgets: Mapping[str, int]) -> Numbers:
        if self.compat == "corrected":
            return {n: START * keep_largest(w.abs(), budgets[n], name=n).float() for n, w in weights.items()}
        total, kept = sum(w.numel() for w in weights.values()), sum(budgets.values())
        threshold = _threshold(weights, kept)
        numbers = {}
        for name, w in weights.items():
            removed = max(1, ((total - kept + 1) * w.numel() - 1) // total)  # int(s·n) from int(s·N)
            own = w.abs().float()
            numbers[name] = 2 * threshold * (own >= own.flatten().kthvalue(removed).values).float()
        return numbers

    def _train(
        self, calibration: Calibration, weights: Numbers, numbers: Numbers, budgets: Mapping[str, int], masks: Numbers
    ) -> Numbers:
        """Trains the numbers in place, from the masks they start with; the masks of the last step."""
        steps, _ = calibration.count()
        optimizer = torch.optim.AdamW(
            list(numbers.values()), lr=self.lr, weight_decay=DECAY if self.compat == "official" else 0.0
        )
        _apply(calibration.layers, weights, masks)
        for step, gradients in enumerate(calibration.subset(weights).gradients_of_batches(training=True)):
            optimizer.param_groups[0]["lr"] = self.lr * (1 - step / steps)
            for name, m in numbers.items():
                slope = torch.sign(m) if self.compat == "official" else 1.0
                m.grad = (gradients[name] * weights[name] * slope).to(m) if name in gradients else torch.zeros_like(m)
            optimizer.step()
            masks = self._masks(numbers, budgets)
            _apply(calibration.layers, weights, masks)
        return masks

    def _warn_of_too_few_steps(self, steps: int) -> None:
        """Both sides move: the kept may fall as far as the removed rise."""
        log.warning(
            "TAMT's masks are those of layer-wise magnitude: in %d steps, from lr %g down to 0, no weight overtook "
            "another. A number moves by some %.2g in all, and those that are kept start %g above the others: give it "
            "some %d calibration batches or more, or a larger solve.lr",
            steps, self.lr, self.lr * (steps + 1) / 2, START, round(START / self.lr),
        )  # fmt: skip

    def _masks(self, numbers: Numbers, budgets: Mapping[str, int]) -> Numbers:
        """What survives with the numbers as they are."""
        if self.compat == "corrected":
            return {name: keep_largest(m, budgets[name], name=name) for name, m in numbers.items()}
        sizes = {name: m.abs() for name, m in numbers.items()}
        (kept,) = kept_per_layer({n: lambda n=n: sizes[n] for n in sizes}, [sum(budgets.values())], ties="none")
        return {name: keep_largest(m, kept[name], name=name, ties="none") for name, m in sizes.items()}


def _apply(layers: Mapping[str, Layer], weights: Numbers, masks: Numbers) -> None:
    with torch.no_grad():
        for name, layer in layers.items():
            layer.weight.copy_(weights[name] * masks[name])


def _threshold(weights: Numbers, kept: int) -> float:
    """The largest |w| that is removed when the `kept` largest of all stay."""
    sizes = {name: w.abs().float() for name, w in weights.items()}
    (upto,) = kept_per_layer({n: lambda n=n: sizes[n] for n in sizes}, [kept + 1])
    found = [size[keep_largest(size, upto[name])].min() for name, size in sizes.items() if upto[name]]
    return float(torch.stack(found).min())
