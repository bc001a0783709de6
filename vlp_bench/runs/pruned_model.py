"""A pruned model from what a run leaves behind: a mask file and a checkpoint, or the folder of the run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlp_bench.models.checkpoints.families import family_of
from vlp_bench.models.checkpoints.locations import weight_file
from vlp_bench.models.checkpoints.read_write import CheckpointError, load_model, read_config
from vlp_bench.models.checkpoints.tensors import tensors_of
from vlp_bench.pruning import released_masks as released
from vlp_bench.pruning.solution import Solution
from vlp_bench.results.store import Store, appended_last
from vlp_bench.runs.checkpointing import read_checkpoint
from vlp_bench.runs.prune_once import mask_hash
from vlp_bench.runs.terminal.console import warn
from vlp_bench.runs.terminal.errors import UserError

RELEASED = (".pth", ".pt")  # mask files as MULTIFLOW's authors released them
BEST, ROWS = "best.ckpt", "rows.jsonl"


def load_solution(file: Path) -> Solution:
    """A mask file, ours or a released one."""
    return released.read(file) if file.suffix in RELEASED else Solution.load(file)


@dataclass(frozen=True)
class Source:
    """A pruned model: its tensors, zeros in place, and what is known of it."""

    name: str
    state: dict[str, Tensor] = field(repr=False)
    solution: Solution = field(repr=False)
    weights: str  # the file that tells the model's configuration
    metrics: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)


def source(place: Path, weights: str) -> Source:
    """A mask applied to a checkpoint, or a finished run."""
    if place.is_dir():
        return _of_run(place)
    solution = load_solution(place)
    return Source(place.stem, _installed(tensors_of(weights, solution.masks), solution), solution, weights)


def _installed(state: Mapping[str, Tensor], solution: Solution) -> dict[str, Tensor]:
    """The tensors with the solution in place; a tensor with new values takes their type."""
    found = dict(state)
    for name, mask in solution.masks.items():
        if found[name].shape != mask.shape:
            shapes = f"{tuple(mask.shape)} and {tuple(found[name].shape)}"
            raise UserError(
                f"the mask of {name} and its weight have shapes {shapes}: give the checkpoint that was pruned"
            )
        found[name] = solution.weights.get(name, found[name]).masked_fill(~mask, 0)
    return found | solution.biases


def _of_run(folder: Path) -> Source:
    """The best epoch of a run, its test metrics, and the mask it was trained under."""
    if not (folder / BEST).is_file() or not (folder / ROWS).is_file():
        raise UserError(f"{folder} holds no {BEST} or no {ROWS}: give a mask file, or the folder of a finished run")
    store = Store(folder.parent)
    rows = [row for row in appended_last(list(store.rows(folder.name))) if row.status == "ok"]
    warn(store.problems)
    if not rows:
        raise UserError(f"{folder} has no result: its run failed; see {folder / ROWS}")
    origin = rows[0].provenance
    state = read_checkpoint(folder / BEST, "cpu")["state_dict"]
    state = {name.removeprefix("model."): tensor for name, tensor in state.items() if name.startswith("model.")}
    solution = _mask_of_run(folder.parent.parent / "masks", origin["mask"])
    metrics = {f"{row.split}/{row.metric}": row.value for row in rows if row.split == "test"}
    return Source(folder.name, state, solution, str(origin["config"]["model"]["weights"]), metrics, dict(origin))


def _mask_of_run(folder: Path, hash_: str | None) -> Solution:
    """The mask of a run, by its hash; an empty one for a dense run."""
    if hash_ is None:
        raise UserError("the run pruned nothing: there is no sparse model to export")
    for file in sorted(folder.glob("*.safetensors")):
        try:
            found = Solution.load(file)
        except ValueError:  # a file of scores, or one of an earlier version: not the one that is looked for
            continue
        if mask_hash(found) == hash_:
            return found
    raise UserError(f"the mask of the run ({hash_}) isn't in {folder} any more: run it again with force=true")


def model_of(found: Source) -> Any:
    """The model of ours with these tensors; None if its checkpoint has no configuration of ours."""
    try:
        read_config(weight_file(found.weights))
    except CheckpointError:
        return None
    model: Any = load_model(found.weights)
    _resize(model, found.state)
    everything = model.state_dict()  # a shared tensor under all its names
    own = dict(model.named_parameters()) | {n: b for n, b in model.named_buffers() if n in everything}
    if unknown := sorted((own.keys() - found.state.keys()) | (found.state.keys() - everything.keys())):
        reason = f"{found.name} is a task's own model ({unknown[0]} differs from {found.weights})"
        raise UserError(f"{reason}: use --as packed")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(found.state[name])
    return model


def _resize(model: Any, state: Mapping[str, Tensor]) -> None:
    """Gives the model the image size of the tensors, where its table of positions has another length."""
    for name in family_of(model.config).positions[:1]:
        if name in state and state[name].shape != model.state_dict()[name].shape:
            side = round((state[name].shape[-2] - 1) ** 0.5)
            model.resize_images(side * model.config.patch_size)
