"""The only reader and writer of weight files: our own safetensors and the papers' released .pth files.

Our files carry the model's configuration and where it came from in the safetensors header, so that a file alone
rebuilds its model. Released files are state dicts under the released names (`released` translates them).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vlp_bench.models.blip import BLIP
from vlp_bench.models.blip_towers import BLIPConfig
from vlp_bench.models.released import BLIP_POSITIONS, XVLM_POSITIONS, blip_key_map, xvlm_key_map
from vlp_bench.models.towers import XVLMConfig, resize_positions
from vlp_bench.models.xvlm import XVLM

PACKAGED = "pkg://"
FORMAT = "vlp_bench.xvlm.1"
RELEASED_ROOTS = ("model", "model_state", "student")
Model = XVLM | BLIP
AnyModel = TypeVar("AnyModel", XVLM, BLIP)
Config = XVLMConfig | BLIPConfig


@dataclass(frozen=True)
class _Family:
    """What the files of one model are like."""

    format: str  # entry in the header of our files
    config: type
    model: type
    key_map: Callable[[dict[str, Tensor]], dict[str, Tensor]]  # of released files
    positions: tuple[str, ...]  # tables that are resized with the images


FAMILIES = (
    _Family(FORMAT, XVLMConfig, XVLM, xvlm_key_map, (XVLM_POSITIONS,)),
    _Family(
        "vlp_bench.blip.1",
        BLIPConfig,
        BLIP,
        blip_key_map,
        (BLIP_POSITIONS, BLIP_POSITIONS.replace("model.", "model_m.", 1)),
    ),
)


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
    header = {_family(model.config).format: json.dumps(content)}
    stored = {name: _as_stored(tensor, dtype) for name, tensor in _tensors(model).items()}
    bad = [name for name, tensor in stored.items() if not bool(tensor.isfinite().all())]
    if bad:
        raise ValueError(f"{path} not written: {bad[0]} holds NaN or infinity as {dtype}; lower the learning rate")
    _write(path, stored, header)
    return path


def _tensors(model: Model) -> dict[str, Tensor]:
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
    digest = hashlib.sha256()
    with open(_existing(path), "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def read_metadata(path: Path | str) -> dict[str, Any]:
    """What was given to `save_model` as metadata."""
    return _header(_existing(path))["metadata"]


def read_config(path: Path | str) -> Config:
    """The configuration in the header of a file of ours."""
    path = _existing(path)
    family = next(family for family in FAMILIES if family.format == _format(path))
    try:
        return family.config(**_header(path)["config"])
    except (TypeError, KeyError) as error:
        raise CheckpointError(path, f"its configuration is of another version ({error})", "write it again") from error


def build(weights: Path | str, config: Config | None = None, attention: str = "sdpa") -> Model:
    """The model of a weight file: the constructor call of conf/model.

    A file of ours brings its configuration along (`config` None); a released .pth needs one. `weights` is a path, or
    `pkg://package/file` for a file that a Python package ships.
    """
    if config is None:
        return load_model(weights, attention=attention)
    path = _existing(weights)  # before seconds are spent on building the model
    return load_weights(_family(config).model(config, attention=attention), path).eval()


def load_model(path: Path | str, *, attention: str = "sdpa", **changes: Any) -> Model:
    """Rebuild the model of a file of ours, float32, in eval mode; `changes` replace fields of its configuration."""
    config = dataclasses.replace(read_config(path), **changes)
    return load_weights(_family(config).model(config, attention=attention), path).eval()


def load_weights(model: AnyModel, path: Path | str) -> AnyModel:
    """Fill `model` from a file of ours or a released .pth, strictly, and return it.

    The table of position embeddings is resized to the model's image size. CheckpointError (a ValueError) if the file
    is missing, truncated, of another model, or holds NaN; the model is then unchanged.
    """
    path, family = _existing(path), _family(model.config)
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_mapped(path, family)
    wanted = _tensors(model)
    state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    for name in family.positions:
        if name in state:
            state[name] = _resized(state[name], model.config.tokens)
    _check(path, state, wanted)
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(state[name])
    return model


def official_key_map(released: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict of the released X-VLM (CLIP) code -> names of our parameters (`released.xvlm_key_map`)."""
    return xvlm_key_map(released)


def _family(config: Config) -> _Family:
    return next(family for family in FAMILIES if isinstance(config, family.config))


def _resized(table: Tensor, tokens: int) -> Tensor:
    """(1 + n, d) or (1, 1 + n, d) positions for so many tokens."""
    return resize_positions(table, tokens) if table.ndim == 2 else resize_positions(table[0], tokens)[None]


def located(path: Path | str) -> Path:
    """A path as it is; `pkg://package/file` as the path of that file in the installed package."""
    package, _, name = str(path).removeprefix(PACKAGED).partition("/")
    return Path(str(resources.files(package) / name)) if str(path).startswith(PACKAGED) else Path(path)


def _existing(path: Path | str) -> Path:
    path = located(path)
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


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    _header(path)
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _read_released(path: Path) -> dict[str, Tensor]:
    """Tensors of a released .pth; nothing in the file is executed (weights_only)."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        reason = f"truncated, or not a file of plain tensors ({str(error).splitlines()[0] if str(error) else 'empty'})"
        raise CheckpointError(path, reason, "fetch it again") from error
    root = next((k for k in RELEASED_ROOTS if isinstance(content, dict) and k in content), None)
    state = content[root] if root else content
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        allowed = ", ".join(RELEASED_ROOTS)
        raise CheckpointError(path, f"no state dict at its top or under {allowed}", "give the released checkpoint")
    return state


def _read_mapped(path: Path, family: _Family) -> dict[str, Tensor]:
    """Tensors of a released .pth under our names."""
    state = _read_released(path)
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
