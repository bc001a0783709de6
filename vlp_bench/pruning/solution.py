"""What pruning returns: masks, new weights where there are some, and how they came about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlp_bench.pruning.adapter import linear_parameters
from vlp_bench.pruning.checks import name_of
from vlp_bench.pruning.layers import Layer, parameters_by_name
from vlp_bench.pruning.masks import file_format as mask_files
from vlp_bench.pruning.masks.bit_packing import Form
from vlp_bench.pruning.masks.parameter_names import matched, unwrapped
from vlp_bench.pruning.selection.thresholds import count

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # integers by their bytes


@dataclass(frozen=True)
class Solved:
    """A solver's answer: masks and, from solvers that change them, the surviving weights' values, both as stored.

    `permutations` are orders of a layer's inputs (d_in,), from solvers whose masks have a pattern in another order.
    """

    masks: dict[str, Tensor]
    weights: dict[str, Tensor]
    permutations: dict[str, Tensor] = field(default_factory=dict)

    def install(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Writes the new values, if any, and zeroes what is removed, in place."""
        with torch.no_grad():
            for name, mask in self.masks.items():
                if name in self.weights:
                    parameters[name].copy_(self.weights[name])
                zero_removed(parameters[name], mask.to(parameters[name].device))


def zero_removed(weight: Tensor, mask: Tensor) -> None:
    """Sets to +0.0 what the mask (same shape) leaves out, infinity and NaN too: all bits go, in place.

    `masked_fill_` takes four times as long, and a product makes NaN of infinity.
    """
    bits = weight.view(BITS[weight.element_size()])
    bits.bitwise_and_(mask.view(torch.int8).neg())


@dataclass(frozen=True)
class TableRow:
    """Weights kept in one group of layers. `block` is empty for a whole modality, `modality` for the whole model."""

    modality: str
    block: str
    kept: int
    total: int

    @property
    def sparsity(self) -> float:
        """Share of the weights removed."""
        return 1 - self.kept / self.total if self.total else 0.0


@dataclass(frozen=True, repr=False)
class Solution:
    """One sparse model, as data.

    Attributes:
        masks: by deduplicated parameter name, bool, in the parameter's shape; True = kept.
        weights: new values of the survivors in the same form; empty unless the solver changes weights.
        report: JSON: `method`, the `compat` of its parts, `settings`, asked and achieved `sparsity`, `kept`, `total`,
            `seconds`, `hashes`, `layers` with `kept`, `total`, `modality` and `block` of each, and `dense`, the linear
            layers that stayed as they are; `permutations`, by layer, where a pattern is one of inputs in another order.
    """

    masks: dict[str, Tensor]
    weights: dict[str, Tensor] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        method = self.report.get("method", "unknown")
        return f"<Solution of {method}: {self.kept} of {self.total} weights kept in {len(self.masks)} layers>"

    @property
    def kept(self) -> int:
        """Number of weights that survive."""
        return sum(count(mask) for mask in self.masks.values())

    @property
    def total(self) -> int:
        """Number of weights that could have been removed."""
        return sum(mask.numel() for mask in self.masks.values())

    @property
    def sparsity(self) -> float:
        """Share of the prunable weights removed, as achieved."""
        return 1 - self.kept / self.total

    def install(self, model: nn.Module) -> None:
        """Gives the model the new weights, if any, and sets every removed weight to exactly zero, in place.

        Compiled and wrapped models are the models inside.

        Raises:
            ValueError: before anything is changed, if a layer is missing or of another shape, or the model has linear
                layers that the pruned one had not.
        """
        parameters = parameters_by_name(model)
        own = check_fit(self.masks, parameters)
        self._check_whole(model)
        Solved(self.masks, self.weights).install({name: parameters[own[name]] for name in self.masks})

    def _check_whole(self, model: nn.Module) -> None:
        """Every linear layer has a mask, or stayed dense when this was found; stored before 0.2: no word about it."""
        known = {unwrapped(name) for name in (*self.masks, *self.report.get("dense", []))}
        missing = [name for name in linear_parameters(model) if unwrapped(name) not in known]
        if "dense" in self.report and missing:
            raise ValueError(
                f"these masks say nothing of {', '.join(map(repr, missing[:3]))}{' and others' * (len(missing) > 3)}: "
                "the model they were found for had no such layers; prune this one"
            )
        lost = [name for name in self.report.get("layers", {}) if name not in self.masks]
        if lost:
            raise ValueError(f"the mask of {lost[0]!r} is missing: the report tells of {len(lost)} more than there are")

    def save(self, path: str | Path, form: Form = "plain") -> Path:
        """Writes a mask file (see `masks.file_format`), whole or not at all; `form` "compact" is smaller."""
        return mask_files.write(path, self.masks, self.weights, self.report, form)

    @classmethod
    def load(cls, path: str | Path) -> Solution:
        """Reads a mask file. Raises FileNotFoundError, or ValueError for anything that isn't a whole mask file."""
        return cls(*mask_files.read(path))

    def inverted(self) -> Solution:
        """Keeps exactly what this one removes: what it calls unimportant, put to the test. No new weights."""
        masks = {name: ~mask for name, mask in self.masks.items()}
        layers = self.report.get("layers", {})
        counts = {name: layer | {"kept": layer["total"] - layer["kept"]} for name, layer in layers.items()}
        report = {
            "method": f"{self.report.get('method', 'unknown')}, inverted",
            "settings": {"inverted": self.report.get("settings")},
            "sparsity": {"asked": None, "achieved": 1 - self.sparsity},
            "kept": self.total - self.kept,
            "layers": counts,
        }
        return Solution(masks, {}, self.report | report)

    def table(self) -> list[TableRow]:
        """Kept weights of every block, each modality followed by its sum, and of the model at the end."""
        rows: list[TableRow] = []
        layers = list(self.report["layers"].values())
        for modality in dict.fromkeys(layer["modality"] for layer in layers):
            own = [layer for layer in layers if layer["modality"] == modality]
            blocks = dict.fromkeys(layer["block"] for layer in own)
            rows += [_row(modality, block, [layer for layer in own if layer["block"] == block]) for block in blocks]
            rows.append(_row(modality, "", own))
        return [*rows, _row("", "", layers)]


def _row(modality: str, block: str, layers: list[dict[str, Any]]) -> TableRow:
    return TableRow(modality, block, sum(layer["kept"] for layer in layers), sum(layer["total"] for layer in layers))


def check_fit(masks: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> dict[str, str]:
    """The parameters' names by the masks'. Raises ValueError unless every mask belongs to a parameter of its shape."""
    own = matched(masks, parameters)
    missing = [name for name in masks if name not in own]
    for name, mask in masks.items():
        if name in missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise ValueError(f"the model has no parameter {name!r}{more}: these masks are of another model")
        shape = tuple(parameters[own[name]].shape)
        if shape != tuple(mask.shape):
            raise ValueError(f"the mask of {name!r} has shape {tuple(mask.shape)}, the model's weight {shape}")
    return own


def check_solved(solve: object, solved: Solved, budgets: Mapping[str, int], layers: Mapping[str, Layer]) -> None:
    """Holds a solver to its budgets.

    A solver that may keep other numbers says so: `may_keep(layer, budget)` is the range of what it may keep of a layer,
    `may_keep_in_all(total)` that of all layers together. Without them the budgets are exact.

    Raises:
        ValueError: names the layer whose mask is missing, of another shape or type, or of another number of weights.
    """
    name, given = name_of(solve), 0
    if not isinstance(solved, Solved):
        raise ValueError(f"{name} gives {type(solved).__name__}: Solved(masks, weights) is needed")
    may_keep = getattr(solve, "may_keep", lambda layer, budget: range(budget, budget + 1))
    for layer, budget in budgets.items():
        mask, shape = solved.masks.get(layer), layers[layer].weight.shape
        if not isinstance(mask, Tensor) or mask.dtype is not torch.bool or mask.shape != shape:
            told = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else repr(mask)
            raise ValueError(f"{name} gives {layer!r} no mask of torch.bool {tuple(shape)}, but {told}")
        kept = count(mask)
        if kept not in may_keep(layers[layer], budget):
            raise ValueError(f"{name} keeps {kept} of {mask.numel()} weights of {layer!r}, its budget is {budget}")
        given += kept
    total = sum(budgets.values())
    if hasattr(solve, "may_keep_in_all") and given not in solve.may_keep_in_all(total):  # pyright: ignore[reportAttributeAccessIssue]
        raise ValueError(f"{name} keeps {given} weights in all, the budget is {total}")


def layer_report(layers: dict[str, Layer], masks: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Kept and total weights, modality and block of every layer."""
    return {
        name: {
            "kept": count(mask),
            "total": mask.numel(),
            "modality": layers[name].place.modality,
            "block": layers[name].place.block,
        }
        for name, mask in masks.items()
    }
