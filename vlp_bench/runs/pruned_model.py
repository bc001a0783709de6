"""A pruned model from what a run leaves behind: a mask file and a checkpoint, or the folder of the run."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlp_bench.models.checkpoints.families import family_of
from vlp_bench.models.checkpoints.locations import FILES, content_hash, weight_file
from vlp_bench.models.checkpoints.pretrained import CONFIG, MASK, from_pretrained
from vlp_bench.models.checkpoints.read_write import CheckpointError, load_model, read_config
from vlp_bench.models.checkpoints.tensors import tensors_of
from vlp_bench.models.stacks import parameters_of, with_slices
from vlp_bench.pruning import released_masks as released
from vlp_bench.pruning.solution import Solution
from vlp_bench.results.named_files import confined, roots
from vlp_bench.results.store import Store, appended_last
from vlp_bench.runs.checkpointing import read_checkpoint
from vlp_bench.runs.prune_once import mask_hash
from vlp_bench.runs.terminal.console import warn
from vlp_bench.runs.terminal.errors import UserError
from vlp_bench.spelling import count_of

RELEASED = (".pth", ".pt")  # mask files as MULTIFLOW's authors released them
BEST, ROWS = "best.ckpt", "rows.jsonl"


def mask_file(place: Path) -> Path:
    """That of a folder that `vlp-bench prune` wrote; a file as it is."""
    return place / MASK if (place / MASK).is_file() else place


def _check_one(place: Path) -> None:
    """UserError for a folder in which `vlp-bench prune` left a model for each of several sparsities."""
    if inside := sorted(str(file.parent) for file in place.glob(f"*/{MASK}")):
        raise UserError(f"{place} holds {len(inside)} pruned models: give one of {', '.join(inside)}")


def load_solution(place: Path) -> Solution:
    """A mask file, ours or a released one, or that of a folder that `vlp-bench prune` wrote."""
    file = mask_file(place)
    _check_one(file)
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
    by_model: bool = False  # the tensors' names are those of transformers' model, whatever its files call them

    @property
    def folder(self) -> Path:
        """Where the weights lie, and what else belongs to them."""
        path = weight_file(self.weights)
        return path if path.is_dir() else path.parent


def source(place: Path, weights: str | None, shipped: str) -> Source:
    """A mask applied to a checkpoint (None: the shipped one), a folder of `vlp-bench prune`, or a finished run."""
    if (place / MASK).is_file():
        return _of_folder(place)
    _check_one(place)
    if place.is_dir():
        return _of_run(place, weights)
    solution, weights = load_solution(place), weights or shipped
    state, by_model = _dense_of(weights, parameters_of(solution.masks))
    return Source(place.stem, _installed(state, solution), solution, weights, by_model=by_model)


def _dense_of(place: str, wanted: Collection[str]) -> tuple[dict[str, Tensor], bool]:
    """The tensors of a checkpoint; where its file lacks the wanted names, or there are several, those of its model."""
    path = weight_file(place)
    folder = path if path.is_dir() else path.parent
    try:
        return tensors_of(place, wanted), False
    except CheckpointError:
        if not (folder / CONFIG).is_file() or (path.is_file() and path.name not in FILES):
            raise
    state = dict(from_pretrained(folder).state_dict())
    if lacking := sorted(set(wanted) - state.keys()):
        raise CheckpointError(folder, f"its model has no {lacking[0]!r}", "give the checkpoint that was pruned")
    return state, True


def _of_folder(folder: Path) -> Source:
    """A pruned model of transformers, by the names of its state dictionary; its file may call them otherwise."""
    state, solution = dict(from_pretrained(folder).state_dict()), load_solution(folder)
    check_zeros(folder, state, solution)
    return Source(folder.absolute().name, state, solution, str(folder), by_model=True)


def check_zeros(folder: Path, state: Mapping[str, Tensor], solution: Solution) -> None:
    """UserError where the mask beside weights isn't theirs: another model's, or removed weights are there again."""
    tensors = with_slices(state, solution.masks)
    for name, mask in solution.masks.items():
        own = tensors.get(name)
        fits = own is not None and own.shape == mask.shape
        back = int(own.masked_fill(mask.to(own.device), 0).count_nonzero()) if own is not None and fits else 0
        if not fits or back:
            why = (
                f"{count_of(back, 'weight')} of {name} that it removes aren't zero"
                if fits
                else f"no {name} of its shape"
            )
            raise UserError(
                f"{folder / MASK} is not the mask of the weights beside it ({why}): take it away to have a dense "
                "model, or give the folder as vlp-bench prune wrote it"
            )


def _installed(state: Mapping[str, Tensor], solution: Solution) -> dict[str, Tensor]:
    """The tensors with the solution in place; a tensor with new values takes their type, a slice its stack's."""
    stacks = parameters_of(name for name in solution.masks if name not in state)
    found = with_slices(dict(state) | {name: state[name].clone() for name in stacks}, solution.masks)
    for name, mask in solution.masks.items():
        if found[name].shape != mask.shape:
            shapes = f"{tuple(mask.shape)} and {tuple(found[name].shape)}"
            raise UserError(
                f"the mask of {name} and its weight have shapes {shapes}: give the checkpoint that was pruned"
            )
        values = solution.weights.get(name, found[name]).masked_fill(~mask, 0)
        found[name] = values if name in state else found[name].copy_(values)
    return {name: found[name] for name in state} | solution.biases


def _of_run(folder: Path, given: str | None) -> Source:
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
    weights = _weights_of(origin, given, folder.parent.parent)
    return Source(folder.name, state, solution, weights, metrics, dict(origin))


def _weights_of(origin: Mapping[str, Any], given: str | None, out: Path) -> str:
    """The checkpoint a run began with: what the row names, if it may name it, or what was given, if it is the same.

    What lies beside it is copied for others, so a row that came from elsewhere must not choose it.
    """
    cure = "give it with --weights FILE"
    if given is not None:
        if content_hash(given) != origin["weights"]:
            raise UserError(f"--weights {given}: the run began with other weights ({origin['weights']})")
        return given
    stored = (origin["config"].get("model") or {}).get("weights")
    if not isinstance(stored, str):
        raise UserError(f"the run's row does not name the weights it began with; {cure}")
    return confined(stored, roots(out), "model.weights", cure)


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
