"""The only reader and writer of weight files: our own safetensors and the papers' released .pth files.

Our files carry the model's configuration and where it came from in the safetensors header, so that a file alone
rebuilds its model. Released files are state dicts under the released names (`released` translates them).
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vlp_bench.models.checkpoints.archives import check_archive, check_tensor
from vlp_bench.models.checkpoints.families import FAMILIES, AnyModel, Config, Family, Model, family_of
from vlp_bench.models.checkpoints.locations import content_hash, warn, weight_file
from vlp_bench.models.checkpoints.wrapped import state_of
from vlp_bench.models.released_names import xvlm_key_map
from vlp_bench.models.units import shrink, unit_counts
from vlp_bench.models.xvlm.towers import resize_positions

FORMAT = FAMILIES[0].format


class CheckpointError(ValueError):
    """A weight file that cannot be used: names the file, the reason and the cure in one line."""

    def __init__(self, path: Path | str, reason: str, cure: str) -> None:
        super().__init__(f"{path}: {reason}; {cure}")


# --- write ---


def save_model(
    path: Path | str, model: Model, metadata: dict[str, Any] | None = None, *, dtype: torch.dtype = torch.float32
) -> Path:
    """Write the weights and, in the header, the configuration and `metadata` (JSON values); all or nothing.

    `dtype` is that of the stored weights (float16 halves the file); they are read back as float32.
    """
    path = Path(path)
    content = {"config": dataclasses.asdict(model.config), "metadata": metadata or {}}
    if counts := unit_counts(model):
        content["units"] = counts
    header = {family_of(model.config).format: json.dumps(content)}
    stored = {name: _as_stored(tensor, dtype) for name, tensor in tensors_of(model).items()}
    bad = [name for name, tensor in stored.items() if not bool(tensor.isfinite().all())]
    if bad:
        raise ValueError(f"{path} not written: {bad[0]} holds NaN or infinity as {dtype}; lower the learning rate")
    _write(path, stored, header)
    return path


def tensors_of(model: Model) -> dict[str, Tensor]:
    """What a file holds: parameters, a shared one once, and lasting buffers (BLIP's queue)."""
    lasting = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in lasting}
    return dict(model.named_parameters()) | buffers


def _as_stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype).contiguous()


def _write(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """Write beside the target, then rename: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(scratch, "wb") as file:
            file.write(save(tensors, metadata=header))
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


# --- read ---


def weights_hash(path: Path | str) -> str:
    """First 16 hex digits of the file's SHA-256: which weights a result came from."""
    return content_hash(_existing(path))


def read_metadata(path: Path | str) -> dict[str, Any]:
    """What was given to `save_model` as metadata."""
    return _header(_existing(path))["metadata"]


def read_config(path: Path | str) -> Config:
    """The configuration in the header of a file of ours."""
    path = _existing(path)
    family = next(family for family in FAMILIES if family.format == _format(path))
    try:
        config = _header(path)["config"]
        _check_sizes(config, path.stat().st_size)
        return family.config(**config)
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise CheckpointError(path, f"its configuration is of another version ({error})", "write it again") from error


def _check_sizes(config: dict[str, Any], size: int) -> None:
    """Raise ValueError for a number that cannot be of a model that fits into a file of `size` bytes."""
    for name, value in config.items():
        if isinstance(value, int | float) and not abs(value) <= max(size, 10_000):
            raise ValueError(f"{name} is {value}")


def build(weights: Path | str, config: Config | None = None, attention: str = "sdpa") -> Model:
    """The model of a weight file: the constructor call of conf/model.

    A file of ours brings its configuration along (`config` None); a released .pth needs one. `weights` is a path,
    `pkg://package/file` for a file that a Python package ships, or `hf:owner/name` for a repository of the hub.
    """
    if config is None:
        return load_model(weights, attention=attention)
    warn(weights)
    path = _existing(weights)  # before seconds are spent on building the model
    return load_weights(family_of(config).model(config, attention=attention), path).eval()


def load_model(path: Path | str, *, attention: str = "sdpa", **changes: Any) -> Model:
    """Rebuild the model of a file of ours, float32, in eval mode; `changes` replace fields of its configuration."""
    config = dataclasses.replace(read_config(path), **changes)
    try:
        model = family_of(config).model(config, attention=attention)
        units: dict[str, int] = _header(_existing(path)).get("units", {})
        if units:
            shrink(model, {name: torch.arange(count) for name, count in units.items()})
    except (ValueError, TypeError, RuntimeError, ArithmeticError, AttributeError) as error:
        raise CheckpointError(path, f"its configuration makes no model ({error})", "write it again") from error
    return load_weights(model, path).eval()


def load_weights(model: AnyModel, path: Path | str) -> AnyModel:
    """Fill `model` from a file of ours or a released .pth, strictly, and return it.

    The table of position embeddings is resized to the model's image size. CheckpointError (a ValueError) if the file
    is missing, truncated, of another model, or holds NaN; the model is then unchanged.
    """
    path, family = _existing(path), family_of(model.config)
    state = _read_ours(path) if _is_ours(path) else _read_mapped(path, family)
    wanted = tensors_of(model)
    state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    for name in family.positions:
        if name in state:
            state[name] = resized(state[name], model.config.tokens)
    state = {name: wanted[name].detach() for name in family.fresh if name in wanted} | state
    _check(path, state, wanted)
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(state[name])
    return model


def official_key_map(released: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict of the released X-VLM (CLIP) code -> names of our parameters (`released.xvlm_key_map`)."""
    return xvlm_key_map(released)


def resized(table: Tensor, tokens: int) -> Tensor:
    """(1 + n, d) or (1, 1 + n, d) positions for so many tokens; anything else stays as it is."""
    if table.ndim not in (2, 3):
        return table
    return resize_positions(table, tokens) if table.ndim == 2 else resize_positions(table[0], tokens)[None]


def _existing(path: Path | str) -> Path:
    path = weight_file(path)
    if not path.is_file():
        raise CheckpointError(path, "no such file", "check the path, or set paths.weights to the folder that holds it")
    return path


def _header(path: Path) -> dict[str, Any]:
    """`config` and `metadata`, kept in one entry: several would be written in random order and change the hash."""
    with _opened(path) as file:
        return json.loads((file.metadata() or {})[_format(path)])


def _format(path: Path) -> str:
    """Which of our formats a file is in."""
    with _opened(path) as file:
        header = file.metadata() or {}
    formats = [family.format for family in FAMILIES]
    known = next((name for name in formats if name in header), None)
    if known is None:
        reason = f"not a {' file, nor a '.join(formats)} file"
        raise CheckpointError(path, reason, "give a file written by vlp_bench, or a released .pth")
    return known


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise CheckpointError(path, f"truncated or not a safetensors file ({error})", "fetch it again") from error


def _is_ours(path: Path) -> bool:
    """Whether a file is in one of our formats; CheckpointError for a broken one."""
    if path.suffix != ".safetensors":
        return False
    with _opened(path) as file:
        return any(family.format in (file.metadata() or {}) for family in FAMILIES)


def _read_ours(path: Path) -> dict[str, Tensor]:
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def read_released(path: Path, roots: tuple[str, ...]) -> dict[str, Tensor]:
    """Tensors of a released file, at its top or under one of `roots`, or as training programs wrap them."""
    content: Any = _read_ours(path) if path.suffix == ".safetensors" else _unpickled(path)
    try:
        state = state_of(content, roots)
        for name, tensor in state.items():
            if tensor.is_meta:
                raise ValueError(f"{name} is on the meta device: it has no values")
            check_tensor(name, tensor, path.stat().st_size)
    except ValueError as error:
        raise CheckpointError(path, str(error), "give the released checkpoint, or one saved from a model") from error
    return state


def _unpickled(path: Path) -> Any:
    """What torch.save wrote; nothing in it is executed."""
    try:
        check_archive(path, path.stat().st_size)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, OSError, LookupError, ValueError) as error:
        reason = f"truncated, or not a file of plain tensors ({str(error).splitlines()[0] if str(error) else 'empty'})"
        raise CheckpointError(path, reason, "fetch it again") from error


def _read_mapped(path: Path, family: Family) -> dict[str, Tensor]:
    """Tensors of a released .pth under our names."""
    state = read_released(path, family.roots)
    try:
        return family.key_map(state)
    except ValueError as error:
        raise CheckpointError(path, str(error), "give one from before fine-tuning") from error


def _check(path: Path, state: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """The names and shapes are the model's, and all numbers finite."""
    missing, unexpected = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or unexpected:
        reason = f"weights of another model: missing {_listed(missing)}; unexpected {_listed(unexpected)}"
        raise CheckpointError(path, reason, "give the file of this model, or the model of this file")
    for name, tensor in state.items():
        if tensor.shape != wanted[name].shape:
            reason = f"{name} is {tuple(tensor.shape)}, the model has {tuple(wanted[name].shape)}"
            raise CheckpointError(path, reason, "give the file of this model, or the model of this file")
        if not bool(tensor.isfinite().all()):
            raise CheckpointError(path, f"{name} holds NaN or infinity", "fetch it again or use an earlier checkpoint")


def _listed(names: list[str], most: int = 5) -> str:
    shown = ", ".join(names[:most]) or "none"
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
