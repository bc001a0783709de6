"""Safetensors files with a JSON header: written whole or not at all, read completely or refused."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save as serialise
from torch import Tensor


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> Path:
    """Writes a safetensors file, whole or not at all, and returns its path."""
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return write_whole(path, serialise(stored, metadata=header | {"sha256": _digest(stored, header)}))


def _digest(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """SHA-256 over header and tensors: safetensors itself would not notice a changed byte."""
    digest = hashlib.sha256(json.dumps(sorted((k, v) for k, v in header.items() if k != "sha256")).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_whole(path: str | Path, data: bytes) -> Path:
    """Writes a file through a temporary one beside it, so that nobody ever sees half of it; makes its folder."""
    path = Path(path)
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


def read_tensors(path: str | Path, format_: str, what: str, cure: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a file that says in its header that it is of the format `format_`.

    Args:
        path: the file.
        format_: what its header must say under `format`.
        what: what such a file is called in messages, "mask file".
        cure: what to do about a broken one.

    Raises:
        FileNotFoundError: there is none.
        ValueError: truncated, something else, or another format; the message names the file, the reason and the cure.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no {what} at {path}")
    data = path.read_bytes()
    try:
        tensors, header = parse(data), _header(data)
    except (SafetensorError, ValueError) as reason:
        raise ValueError(f"{path} is truncated or no {what} ({reason}): {cure}") from reason
    if header.get("format") != format_:
        raise ValueError(f"{path} is no {what}: its format is {header.get('format')!r}, {format_!r} is needed; {cure}")
    if header.get("sha256", "") not in ("", _digest(tensors, header)):
        raise ValueError(f"{path} is a damaged {what} (its content is not what was written): {cure}")
    return tensors, header


def _header(data: bytes) -> dict[str, str]:
    """The metadata at the front of a safetensors file: 8 bytes of length, then JSON."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]).get("__metadata__", {})
