"""What pruning returns: masks, new weights where there are some, and how they came about."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from vlp_bench.pruning.adapter import adapter_for, linear_parameters
from vlp_bench.pruning.checks import check_choice, name_of
from vlp_bench.pruning.layers import Layer, parameters_by_name
from vlp_bench.pruning.masks import file_format as mask_files
from vlp_bench.pruning.masks.bit_packing import Form
from vlp_bench.pruning.masks.parameter_names import matched, renaming, unwrapped
from vlp_bench.pruning.said_once import warn_once
from vlp_bench.pruning.selection.thresholds import counts
from vlp_bench.pruning.weights_hash import hash_of_weights
from vlp_bench.spelling import count_of

log = logging.getLogger(__name__)
OtherWeights = Literal["warn", "allow", "refuse"]

CLOSE = 1e-6  # sparsities that differ by less are one
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # integers by their bytes


@dataclass(frozen=True)
class Solved:
    """A solver's answer: masks and, from solvers that change them, the surviving weights' values, both as stored.

    `biases` are new values of biases by parameter name, from solvers that change those.
    `permutations` are orders of a layer's inputs (d_in,), from solvers whose masks have a pattern in another order.
    """

    masks: dict[str, Tensor]
    weights: dict[str, Tensor]
    biases: dict[str, Tensor] = field(default_factory=dict)
    permutations: dict[str, Tensor] = field(default_factory=dict)

    def install(self, parameters: Mapping[str, Tensor]) -> None:
        """Writes the new values, if any, and zeroes what is removed, in place."""
        with torch.no_grad():
            for name, bias in self.biases.items():
                parameters[name].copy_(bias)
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
            `seconds`, `precision` (of passes over data), `hashes`,
            `layers` with `kept`, `total`, `modality` and `block` of each, and `dense`, the linear
            layers that stayed as they are; `permutations`, by layer, where a pattern is one of inputs in another order.
        biases: new values of biases by parameter name; empty unless the solver corrects them.
    """

    masks: dict[str, Tensor]
    weights: dict[str, Tensor] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    biases: dict[str, Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        method = self.report.get("method", "unknown")
        return (
            f"<Solution of {method}: {self.kept} of {self.total} weights kept in {count_of(len(self.masks), 'layer')}>"
        )

    @property
    def kept(self) -> int:
        """Number of weights that survive."""
        return sum(counts(list(self.masks.values())))

    @property
    def total(self) -> int:
        """Number of weights that could have been removed."""
        return sum(mask.numel() for mask in self.masks.values())

    @property
    def sparsity(self) -> float:
        """Share of the prunable weights removed, as achieved."""
        return 1 - self.kept / self.total

    def install(self, model: nn.Module, *, partial: bool = False, other_weights: OtherWeights = "warn") -> None:
        """Gives the model the new weights, if any, and sets every removed weight to exactly zero, in place.

        Compiled and wrapped models (DDP, a LightningModule that holds the model) are the models inside, there and where
        the masks were found.

        Args:
            model: the pruned one, or one of its kind.
            partial: whether layers of which the masks say nothing may stay as they are.
            other_weights: what to do where the weights aren't those that the masks were found for (fine-tuned ones, or
                another seed's): "warn", "allow" or "refuse" them.

        Raises:
            ValueError: before anything is changed, if a layer is missing or of another shape, or the model has layers
                that the pruned one had not, or weights that are refused.
        """
        check_choice("other_weights", other_weights, get_args(OtherWeights))
        parameters = parameters_by_name(model)
        found = self.masks | self.biases
        renamed = renaming(list(self.masks), list(parameters))
        own = check_fit({renamed(name): tensor for name, tensor in found.items()}, parameters)
        targets = {name: parameters[own[renamed(name)]] for name in found}
        if not partial:
            self._check_whole(model, renamed)
        if other_weights != "allow":
            self._check_weights(model, {name: targets[name] for name in self.masks}, other_weights)
        Solved(self.masks, self.weights, self.biases).install(targets)

    def _check_whole(self, model: nn.Module, renamed: Callable[[str], str]) -> None:
        """Every linear layer has a mask or stayed dense when this was found.

        Masks that don't tell what stayed dense (found before 0.2, released, or made by hand) are held to what can be
        pruned.
        """
        told, lost = "dense" in self.report, [name for name in self.report.get("layers", {}) if name not in self.masks]
        if lost and not told:
            raise ValueError(f"the mask of {lost[0]!r} is missing: the report tells of {len(lost)} more than there are")
        known = {unwrapped(renamed(name)) for name in (*self.masks, *self.report.get("dense", []))}
        there = linear_parameters(model) if told else adapter_for(model).prunable(model)
        missing = [name for name in there if unwrapped(name) not in known]
        if missing:
            raise ValueError(
                f"these masks say nothing of {', '.join(map(repr, missing[:3]))}{' and others' * (len(missing) > 3)}: "
                "the model they were found for had no such layers; prune this one, or install with partial=True"
            )

    def _check_weights(self, model: nn.Module, targets: Mapping[str, Tensor], other: OtherWeights) -> None:
        """Compares with the hash of the weights that were pruned, unless these are pruned already."""
        wanted = self.report.get("hashes", {}).get("weights")
        if wanted is None or self._is_in(targets) or hash_of_weights(model, targets) == wanted:
            return
        said = "the model's weights aren't those that these masks were found for (their hash differs)"
        if other == "refuse":
            raise ValueError(f'{said}: prune these, or install with other_weights="allow"')
        warn_once(log, model, f'{said}; install with other_weights="allow" where that is meant')

    def _is_in(self, targets: Mapping[str, Tensor]) -> bool:
        """Whether every removed weight is zero already."""
        return all(not bool(w.detach().masked_fill(self.masks[n].to(w.device), 0).any()) for n, w in targets.items())

    def save(self, path: str | Path, form: Form = "plain") -> Path:
        """Writes a mask file (see `masks.file_format`), whole or not at all; `form` "compact" is smaller."""
        return mask_files.write(path, self.masks, self.weights, self.report, form, self.biases)

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


class Solutions(Mapping[float, Solution]):
    """One sparse model for each sparsity that was asked for, in their order.

    A sparsity finds its solution whatever its type and last digits. If there is only one, its attributes are here too.
    """

    def __init__(self, solutions: Mapping[float, Solution]) -> None:
        self._solutions = dict(solutions)

    def __getitem__(self, sparsity: float) -> Solution:
        """The solution for a sparsity. Raises KeyError with those that there are."""
        for known, solution in self._solutions.items():
            if isinstance(sparsity, Real) and math.isclose(known, float(sparsity), rel_tol=0, abs_tol=CLOSE):
                return solution
        raise KeyError(f"there is no solution for sparsity {sparsity!r}: there are {self._told()}")

    def __iter__(self) -> Iterator[float]:
        return iter(self._solutions)

    def __len__(self) -> int:
        return len(self._solutions)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not (hasattr(Solution, name) or name in Solution.__dataclass_fields__):
            raise AttributeError(f"Solutions has no attribute {name!r}")
        if len(self) != 1:
            raise AttributeError(f"which {name}? There are solutions for {self._told()}: result[SPARSITY].{name}")
        return getattr(next(iter(self.values())), name)

    def __repr__(self) -> str:
        methods = dict.fromkeys(str(solution.report.get("method", "unknown")) for solution in self.values())
        return f"<Solutions of {', '.join(methods)} for {self._told()}>"

    def _told(self) -> str:
        return ", ".join(f"{sparsity:g}" for sparsity in self) or "none"


def _row(modality: str, block: str, layers: list[dict[str, Any]]) -> TableRow:
    return TableRow(modality, block, sum(layer["kept"] for layer in layers), sum(layer["total"] for layer in layers))


def check_fit(masks: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> dict[str, str]:
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


def check_solved(
    solve: object, solved: Solved, budgets: Mapping[str, int], layers: Mapping[str, Layer]
) -> dict[str, int]:
    """Holds a solver to its budgets; returns how many weights of each layer are kept.

    A solver that may keep other numbers says so: `may_keep(layer, budget)` is the range of what it may keep of a layer,
    `may_keep_in_all(total)` that of all layers together. Without them the budgets are exact.

    Raises:
        ValueError: names the layer whose mask is missing, of another shape or type, or of another number of weights, or
            that has no budget.
    """
    name, kept_of = name_of(solve), dict[str, int]()
    if not isinstance(solved, Solved):
        raise ValueError(f"{name} gives {type(solved).__name__}: Solved(masks, weights) is needed")
    for layer in budgets:
        mask, shape = solved.masks.get(layer), layers[layer].weight.shape
        if not isinstance(mask, Tensor) or mask.dtype is not torch.bool or mask.shape != shape:
            told = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else repr(mask)
            raise ValueError(f"{name} gives {layer!r} no mask of torch.bool {tuple(shape)}, but {told}")
    for (layer, budget), kept in zip(budgets.items(), counts([solved.masks[layer] for layer in budgets]), strict=True):
        if kept not in may_keep(solve, layers[layer], budget):
            size = solved.masks[layer].numel()
            raise ValueError(f"{name} keeps {kept} of {size} weights of {layer!r}, its budget is {budget}")
        kept_of[layer] = kept
    if unasked := [layer for layer in solved.masks if layer not in budgets]:
        raise ValueError(f"{name} gives a mask of {unasked[0]!r}, which has no budget")
    given, total = sum(kept_of.values()), sum(budgets.values())
    if hasattr(solve, "may_keep_in_all") and given not in solve.may_keep_in_all(total):  # pyright: ignore[reportAttributeAccessIssue]
        raise ValueError(f"{name} keeps {given} weights in all, the budget is {total}")
    return {layer: kept_of[layer] for layer in solved.masks}


def check_values(given_by: object, solved: Solved, layers: Mapping[str, Layer]) -> None:
    """Holds new weights to their layers' shapes, and what is kept of them to what their layers' types can hold.

    Raises:
        ValueError: names the layer, and the part of the pruner that gave the weights.
    """
    name = name_of(given_by)
    for layer, mask in solved.masks.items():
        own, weight = solved.weights.get(layer), layers[layer].weight
        if own is None:
            continue
        if not isinstance(own, Tensor) or not own.is_floating_point() or own.shape != weight.shape:
            told = f"{own.dtype} {tuple(own.shape)}" if isinstance(own, Tensor) else repr(own)
            raise ValueError(f"{name} gives {layer!r} no weights {tuple(weight.shape)} as stored, but {told}")
        own = own.to(weight.dtype)
        if not own.sum().isfinite() and not own[mask.to(own.device)].isfinite().all():
            raise ValueError(
                f"{name} gives {layer!r} weights that {own.dtype} doesn't hold: NaN, or beyond "
                f"{torch.finfo(own.dtype).max:g}; prune the model in float32"
            )


def may_keep(solve: object, layer: Layer, budget: int) -> range:
    """How many of a layer's weights a solver may keep: the budget, unless it says otherwise."""
    own = getattr(solve, "may_keep", None)
    return range(budget, budget + 1) if own is None else own(layer, budget)


def layer_report(layers: Mapping[str, Layer], kept: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Kept and total weights, modality and block of every layer."""
    return {
        name: {
            "kept": own,
            "total": layers[name].size,
            "modality": layers[name].place.modality,
            "block": layers[name].place.block,
        }
        for name, own in kept.items()
    }
