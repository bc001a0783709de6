"""Another sparsity from what a calibration has found out, without the data and without the model's code.

A score is a function of the weights and of a few statistics of the calibration data. Only the statistics are stored:
with the checkpoint that was pruned they give every score again, exactly. For MULTIFLOW and Wanda that is one number per
input of a layer (0.7 MB for XVLM), for SNIP and OBD one per weight, for magnitudes nothing at all.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vlp_bench.batch import Place
from vlp_bench.construct import check_names, locate
from vlp_bench.pruning.adapter import PlainAdapter
from vlp_bench.pruning.checks import check_sparsity
from vlp_bench.pruning.pruner import Pruner
from vlp_bench.pruning.solution import Solution
from vlp_bench.pruning.solvers.keep_top import KeepTop
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.on_disk import StoredStatistics
from vlp_bench.pruning.sweep import is_at_once
from vlp_bench.pruning.weights_hash import hash_of

CURE = "prune again with scores=true"
HOME = "vlp_bench.pruning."  # a text that starts so names a function


def write(path: str | Path, calibration: Calibration) -> Path:
    """Writes what scores are made of, as far as the calibration has been asked for it, whole or not at all."""
    weights = hash_of({name: layer.weight for name, layer in calibration.layers.items()})
    return calibration.known(weights).write(path)


def read(path: str | Path) -> StoredStatistics:
    """What `write` has written. Raises FileNotFoundError, or ValueError for anything else."""
    return StoredStatistics.read(path, "file of scores", CURE)


def another_sparsity(
    solution: Solution, sparsity: float, scores: str | Path, weights: Mapping[str, Tensor]
) -> Solution:
    """The solution that the same pruner would have found at another sparsity, exactly.

    Args:
        solution: a mask file's.
        sparsity: the one that is wanted.
        scores: the file that `write` made in the same run.
        weights: of the dense model, by parameter name; others than the mask's are ignored.

    Raises:
        FileNotFoundError: there is no file of scores.
        ValueError: the method isn't one whose scores can be stored, or the weights are others.
    """
    sparsity, pruner = check_sparsity(sparsity), _pruner(solution.report)
    stored = read(scores)
    skeleton = _skeleton(_same_weights(solution, weights), stored.transposed)
    places = _Places(solution.report["layers"])
    calibration = Calibration(skeleton, None, places, num_batches=pruner.num_batches, stored=stored)
    if stored.weights != solution.report["hashes"]["weights"]:
        raise ValueError(
            f"{scores} is of another model, or of other layers, than the mask: give the file that was stored beside it"
        )
    try:
        found = pruner.prune(skeleton, sparsity, calibration)
    except ValueError as reason:
        lacking = f"{scores} lacks what {solution.report['method']} asks of the data"
        raise ValueError(f"{lacking}: {CURE}, or, where it isn't stored then, at the other sparsity") from reason
    report = {key: value for key, value in found.report.items() if key != "dense"}  # the skeleton doesn't know
    kept_dense = {"dense": solution.report["dense"]} if "dense" in solution.report else {}
    return Solution(found.masks, found.weights, report | kept_dense)


class _Places(PlainAdapter):
    """Answers from the report of a mask file."""

    def __init__(self, layers: Mapping[str, Any]) -> None:
        self.layers = layers

    def prunable(self, model: nn.Module) -> list[str]:
        return list(self.layers)

    def place(self, name: str) -> Place:
        return Place(self.layers[name]["modality"], self.layers[name]["block"])


def _skeleton(weights: Mapping[str, Tensor], transposed: list[str]) -> nn.Module:
    """Modules that hold these parameters under these names, and do nothing."""
    root = nn.Module()
    for name, weight in weights.items():
        *path, leaf = name.split(".")
        module = root
        for number, part in enumerate(path):
            if part not in module._modules:
                module.add_module(part, _leaf() if name in transposed and number + 1 == len(path) else nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(leaf, nn.Parameter(weight, requires_grad=False))
    return root


def _leaf() -> nn.Module:
    from transformers.pytorch_utils import Conv1D  # here, as few models need it

    return Conv1D(1, 1)


def _same_weights(solution: Solution, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the mask's layers, in the type in which they were pruned; the hash tells."""
    if missing := [name for name in solution.masks if name not in weights]:
        raise ValueError(f"the weights hold no {missing[0]!r}: give the checkpoint that was pruned, under these names")
    own = {name: weights[name].detach() for name in solution.masks}
    wanted = solution.report["hashes"]["weights"]
    for found in (own, {name: weight.float() for name, weight in own.items()}):
        if hash_of(found) == wanted:
            return found
    raise ValueError("these are not the weights that were pruned (their hash differs): give the same checkpoint")


def _pruner(report: Mapping[str, Any]) -> Pruner:
    """The pruner of a report, if its masks follow from scores.

    Raises:
        ValueError: it isn't ours, or it looks at the data again at every step.
    """
    settings = report.get("settings") or {}
    if "_target_" not in settings:
        raise ValueError(f"the mask of {report.get('method')!r} doesn't say how it was made: it has no other sparsity")
    pruner = rebuilt(settings)
    if not isinstance(pruner, Pruner) or not isinstance(pruner.solve, KeepTop):
        raise ValueError(f"{report['method']} doesn't keep the largest scores: prune again at the other sparsity")
    if pruner.tokens is not None:
        raise ValueError(
            f"{report['method']} looks at the data again to choose its tokens: prune again at the other sparsity"
        )
    if pruner.values is not None:
        raise ValueError(
            f"{report['method']} looks at the data again for the values of what it keeps: prune again at the other "
            "sparsity"
        )
    if len(pruner.schedule(0.5)) > 1 or not is_at_once(pruner.sweep):
        raise ValueError(
            f"{report['method']} looks at the data again after each step or block, which depends on the sparsity: "
            "prune again at the other one"
        )
    return pruner


def rebuilt(description: Any) -> Any:
    """The inverse of `pruner.describe`, for what `vlp_bench.construct` lists and this package prunes with.

    Raises:
        ValueError: it names something else, which is not imported, or has options that are not its own.
    """
    check_names(description, "settings", within=(HOME,))
    return _rebuilt(description)


def _rebuilt(description: Any) -> Any:
    if isinstance(description, str) and description.startswith(HOME):
        return locate(description)
    if isinstance(description, list):
        return [_rebuilt(entry) for entry in description]
    if not isinstance(description, Mapping):
        return description
    made = locate(description["_target_"]) if "_target_" in description else dict
    own = {key: _rebuilt(value) for key, value in description.items() if key != "_target_"}
    try:
        return made(**own) if inspect.isclass(made) else partial(made, **own)
    except TypeError as error:
        raise ValueError(f"the settings of the mask are not of this version ({error})") from None
