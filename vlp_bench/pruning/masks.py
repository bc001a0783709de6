"""Mask files, and what two masks have in common.

One safetensors file: `<layer>/mask` holds the mask's bits, eight in a byte, the first weight lowest; `<layer>/weight`
the surviving weights' new values, where a solver changed them; the header the report of the run as JSON. Written to a
temporary file and renamed, so that a reader never sees half of one.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save as serialise
from torch import Tensor

FORMAT = "vlp_bench masks 1"
Contents = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]  # masks, weights, report


def pack(mask: Tensor) -> Tensor:
    """(⌈n / 8⌉,) uint8 from a bool tensor of n entries; the first entry is the lowest bit."""
    return torch.from_numpy(np.packbits(mask.detach().cpu().reshape(-1).numpy(), bitorder="little"))


def unpack(bits: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `pack`. Raises ValueError if the number of bytes doesn't fit the shape."""
    count = int(np.prod(shape))
    if bits.dtype != torch.uint8 or bits.numel() != (count + 7) // 8:
        raise ValueError(f"{bits.numel()} bytes of {bits.dtype} are no mask of shape {shape}")
    flat = np.unpackbits(bits.cpu().numpy(), count=count, bitorder="little")
    return torch.from_numpy(flat).bool().view(shape)


def write(path: str | Path, masks: Mapping[str, Tensor], weights: Mapping[str, Tensor], report: dict[str, Any]) -> Path:
    """Writes a mask file, whole or not at all, and returns its path."""
    shapes = {name: list(mask.shape) for name, mask in masks.items()}
    header = {"format": FORMAT, "shapes": json.dumps(shapes), "report": json.dumps(report)}
    tensors = {f"{name}/mask": pack(mask) for name, mask in masks.items()}
    tensors |= {f"{name}/weight": weight.detach().cpu().contiguous() for name, weight in weights.items()}
    return _write_whole(Path(path), serialise(tensors, metadata=header))


def _write_whole(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read(path: str | Path) -> Contents:
    """Masks, new weights and report of a mask file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is truncated or damaged, or something else; the message names it and the reason.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no mask file at {path}")
    data = path.read_bytes()
    try:
        tensors, header = parse(data), _header(data)
    except (SafetensorError, ValueError) as reason:
        raise ValueError(f"{path} is truncated or no mask file ({reason}): prune again, or copy it again") from reason
    if header.get("format") != FORMAT:
        raise ValueError(f"{path} is no mask file: its format is {header.get('format')!r}, {FORMAT!r} is needed")
    try:
        return _contents(tensors, header)
    except (KeyError, TypeError, ValueError) as reason:
        raise ValueError(f"{path} is a damaged mask file ({reason}): prune again, or copy it again") from reason


def _header(data: bytes) -> dict[str, str]:
    """The metadata at the front of a safetensors file: 8 bytes of length, then JSON."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]).get("__metadata__", {})


def _contents(tensors: dict[str, Tensor], header: dict[str, str]) -> Contents:
    shapes, report = json.loads(header["shapes"]), json.loads(header["report"])
    masks = {name: unpack(tensors.pop(f"{name}/mask"), tuple(shape)) for name, shape in shapes.items()}
    weights = {key.removesuffix("/weight"): tensor for key, tensor in tensors.items()}
    for name, layer in report.get("layers", {}).items():
        if int(masks[name].sum()) != layer["kept"]:
            raise ValueError(f"{name} should keep {layer['kept']} weights and keeps {int(masks[name].sum())}")
    for name, weight in weights.items():
        if weight.shape != masks[name].shape or not torch.isfinite(weight).all():
            raise ValueError(f"the weights of {name} don't fit its mask or hold NaN")
    return masks, weights, report


@dataclass(frozen=True)
class Overlap:
    """What two masks of one layer, or of several, have in common."""

    kept_first: int
    kept_second: int
    kept_both: int

    @property
    def iou(self) -> float:
        """Intersection over union of the kept weights; 1 if both keep nothing."""
        union = self.kept_first + self.kept_second - self.kept_both
        return self.kept_both / union if union else 1.0

    @property
    def differ(self) -> int:
        """Number of weights that are kept by one of the two alone."""
        return self.kept_first + self.kept_second - 2 * self.kept_both

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(
            self.kept_first + other.kept_first,
            self.kept_second + other.kept_second,
            self.kept_both + other.kept_both,
        )


def overlap(first: Tensor, second: Tensor) -> Overlap:
    """Compares two masks of one shape."""
    if first.shape != second.shape:
        raise ValueError(f"masks of shapes {tuple(first.shape)} and {tuple(second.shape)} can't be compared")
    first, second = first.bool().cpu(), second.bool().cpu()
    return Overlap(int(first.sum()), int(second.sum()), int((first & second).sum()))


def diff(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Overlap]:
    """Compares two sets of masks layer by layer. Raises ValueError if they are of different layers."""
    if unmatched := sorted(set(first) ^ set(second)):
        raise ValueError(f"only one of the two has a mask for {', '.join(unmatched[:3])}; {len(unmatched)} in all")
    return {name: overlap(first[name], second[name]) for name in first}
