"""UPop: gates on units fall to zero while the weights are trained; which ones, their gradients say (ICML 2023)."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vlp_bench.models.units import HEADS
from vlp_bench.pruning.checks import Compat, check_compat, check_counts, check_not_negative, check_positive
from vlp_bench.pruning.layers import in_full, preserve_weights
from vlp_bench.pruning.solution import Solved
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.structured.groups import Keep, Part, PrunableGroup, Units, masks_of

CHANNELS = "channels"  # the same place in every head of an attention


@dataclass(frozen=True, kw_only=True)
class UPop:
    """Unified and progressive search (Shi et al., ICML 2023): neurons, and channels that all heads of a layer lose.

    Every unit has a gate, at first 1, on what a neuron gives, or on a channel's queries, keys and values. In every step
    the weights take a step of AdamW with the gates where they are. Now and then all units compete: by the sums of their
    gates' gradients so far, standardised among neurons and among channels; the largest, whose loss falls when they
    close, are the ones that go. Of the sparsity s so many go as make p_t = s·√((1 - cos(π·t/T)) / 2), and their gates
    are 1 - p_t/s; the others' are 1 again. In the end the gates are 0, and what remains has the trained weights.

    The published search minimises the loss of a task; this one that of the calibration, so that one search serves all
    tasks. A unit costs its prunable weights. The published penalty on the gates gives all of a kind the same gradient,
    which standardising takes away.

    Args:
        epochs: passes over the calibration batches.
        every: steps from one competition to the next; the last is held at the end.
        lr, decay: of AdamW, for the prunable weights, with the digits of float32; others stay as they are.
        compat: "official": the sparsity is a share of published costs, three for each head of a channel and one for a
            neuron, and so the weights that go are others in number than asked.
    """

    epochs: int = 5
    every: int = 5
    lr: float = 1e-5
    decay: float = 0.05
    compat: Compat = "corrected"

    def __post_init__(self) -> None:
        check_compat(self.compat)
        check_counts(epochs=self.epochs, every=self.every)
        check_positive(lr=self.lr)
        check_not_negative(decay=self.decay)

    def __call__(self, calibration: Calibration, budgets: dict[str, int]) -> Solved:
        """Masks as stored, and the trained weights: as many stay as the budgets are in all, or less than a unit fewer.

        Raises:
            ValueError: the units hold fewer weights than should go.
        """
        gates = Gates(channels_for_heads(calibration[Units()]), self.compat)
        asked, layers = calibration.total - sum(budgets.values()), calibration.layers
        if self.compat == "official":
            asked = round(
                asked / calibration.total * sum(c * g.units for c, g in zip(gates.costs, gates.groups, strict=True))
            )
        with preserve_weights(layers):
            keep = self._search(calibration, gates, asked)
            masks = masks_of(gates.groups, keep, layers)
            weights = {name: layer.weight.detach().masked_fill(~masks[name], 0) for name, layer in layers.items()}
        return Solved(masks, weights)

    def may_keep(self, layer: Any, budget: int) -> range:
        """Any number: all units of the model compete."""
        return range(layer.size + 1)

    def may_keep_in_all(self, total: int) -> range:
        """At most the sum of the budgets. Official: any number."""
        return range(sys.maxsize if self.compat == "official" else total + 1)

    def _search(self, calibration: Calibration, gates: Gates, asked: int) -> Keep:
        """Which units stay; the layers have the trained weights then."""
        layers, steps = calibration.layers, self.epochs * calibration.count()[0]
        weights = {name: in_full(layer.weight) for name, layer in layers.items()}
        optimiser = torch.optim.AdamW(list(weights.values()), lr=self.lr, weight_decay=self.decay)
        step = 0
        with gates.installed(calibration):
            for _ in range(self.epochs):
                for gradients in calibration.subset(layers).gradients_of_batches(training=True):
                    for name, weight in weights.items():
                        weight.grad = gradients[name].to(weight.dtype) if name in gradients else None
                    optimiser.step()
                    for name, weight in weights.items():
                        layers[name].weight.detach().copy_(weight)
                    step += 1
                    if step % self.every == 0 and step < steps:
                        gates.compete(asked, progress(step, steps))
        return gates.compete(asked, 1.0)


def progress(step: int, steps: int) -> float:
    """√((1 - cos(π·t/T)) / 2): from 0 to 1, the share of what shall go that goes after t of T steps."""
    return math.sqrt((1 - math.cos(math.pi * step / steps)) / 2)


def channels_for_heads(groups: Iterable[PrunableGroup]) -> list[PrunableGroup]:
    """The groups, with the channels of each attention in the place of its heads."""
    return [_channels(group) if group.group.what == HEADS else group for group in groups]


def _channels(heads: PrunableGroup) -> PrunableGroup:
    """A channel is the same row of every head of queries, keys and values, and the column that reads it."""
    width = min(part.slices.width(heads.units) for part in heads.parts)
    parts = []
    for part in heads.parts:
        own = part.slices
        parts.append(Part(part.layer, replace(own, parts=own.parameter.shape[own.dim] // width)))
    name = f"{heads.name.removesuffix(HEADS)}{CHANNELS}"
    slices = tuple(part.slices for part in parts)
    return PrunableGroup(replace(heads.group, name=name, what=CHANNELS, units=width, slices=slices), tuple(parts))


def published_cost(group: PrunableGroup) -> int:
    """Of a unit: 1, and for a channel of h heads 3·h, those of its queries, keys and values."""
    return (
        sum(part.slices.parts for part in group.parts if not part.slices.reads) if group.group.what == CHANNELS else 1
    )


class Gates:
    """The gates of groups of units, and the sums of their gradients."""

    def __init__(self, groups: list[PrunableGroup], compat: Compat = "corrected") -> None:
        self.groups = groups
        self.costs = [published_cost(group) if compat == "official" else group.cost for group in groups]
        device = groups[0].parts[0].layer.weight.device
        self.values = {group.name: torch.ones(group.units, device=device) for group in groups}
        self.gradients = {group.name: torch.zeros(group.units, device=device) for group in groups}

    @contextmanager
    def installed(self, calibration: Calibration) -> Iterator[None]:
        """Puts them into the model: on a channel's rows of what is made, on a neuron where it is read."""
        with ExitStack() as undo:
            for group in self.groups:
                for part in group.parts:
                    if part.slices.reads == (group.group.what != CHANNELS):
                        for reader in part.layer.readers:
                            undo.callback(self._hooked(reader.module, group, part).remove)
            yield

    def _hooked(self, module: Any, group: PrunableGroup, part: Part) -> Any:
        size, width = part.slices.parameter.shape[part.slices.dim], part.slices.width(group.units)
        unit = (torch.arange(size, device=part.layer.weight.device) // width) % group.units
        if part.slices.reads:
            return module.register_forward_pre_hook(lambda _, args: (self._gated(group, unit, args[0]), *args[1:]))
        return module.register_forward_hook(lambda _, args, output: self._gated(group, unit, output))

    def _gated(self, group: PrunableGroup, unit: Tensor, x: Tensor) -> Tensor:
        """x (..., n) times the gates of its places; a backward pass adds to their gradients."""
        y = x * self.values[group.name][unit].to(x.dtype)
        if y.requires_grad:
            own = x.detach()
            y.register_hook(lambda g: self._add(group, unit, (g * own).float().flatten(0, -2).sum(0)))
        return y

    def _add(self, group: PrunableGroup, unit: Tensor, found: Tensor) -> None:
        self.gradients[group.name].index_add_(0, unit, found)

    def compete(self, asked: int, share: float) -> Keep:
        """Chooses who goes so that of `asked` weights this share does, and sets the gates; who stays, by group.

        Never less goes than that, and of each group one unit stays. Of equals the earlier goes.
        """
        scores, gone, removed = self.standardised(), set[tuple[int, int]](), 0
        left = [group.units for group in self.groups]
        queue = sorted((-float(s), g, u) for g, own in enumerate(scores) for u, s in enumerate(own))
        for _, g, u in queue:
            if removed >= share * asked:
                break
            if left[g] > 1:
                gone.add((g, u))
                left[g] -= 1
                removed += self.costs[g]
        if removed < share * asked:
            raise ValueError(
                f"{asked} weights should go, and the units hold {removed} beside the last of each group: ask for less, "
                "or use a pruner of single weights"
            )
        keep = {
            group.name: torch.tensor([(g, u) not in gone for u in range(group.units)])
            for g, group in enumerate(self.groups)
        }
        for name, values in self.values.items():
            self.values[name] = torch.where(keep[name].to(values.device), 1.0, 1 - share)
        return keep

    def standardised(self) -> list[Tensor]:
        """The gradients of each group, less the mean of all of the kind, over their deviation (1 where that is 0)."""
        kinds: dict[str, list[Tensor]] = {}
        for group in self.groups:
            kinds.setdefault(group.group.what, []).append(self.gradients[group.name])
        found = []
        for group in self.groups:
            alike = torch.cat(kinds[group.group.what]).double()
            deviation = float(alike.std()) if len(alike) > 1 else 0.0
            found.append(((self.gradients[group.name].double() - alike.mean()) / (deviation or 1.0)).cpu())
        return found
