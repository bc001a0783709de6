"""Safetensors files with a JSON header: written whole or not at all, read completely or refused."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save as serialise
from torch import Tensor

T = TypeVar("T")
MOST = 1 << 34  # entries of one tensor
BROKEN = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, RecursionError, zlib.error)
"""What reading a file that says what it likes can raise; memory is bounded beforehand, not by running out of it."""


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
    except (SafetensorError, *BROKEN) as reason:
        raise ValueError(f"{path} is truncated or no {what} ({first_line(reason)}): {cure}") from reason
    if header.get("format") != format_:
        raise ValueError(f"{path} is no {what}: its format is {header.get('format')!r}, {format_!r} is needed; {cure}")
    if header.get("sha256", "") not in ("", _digest(tensors, header)):
        raise ValueError(f"{path} is a damaged {what} (its content is not what was written): {cure}")
    return tensors, header


def _header(data: bytes) -> dict[str, str]:
    """The metadata at the front of a safetensors file: 8 bytes of length, then JSON."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]).get("__metadata__") or {}


@contextmanager
def refusing(path: str | Path, what: str, cure: str) -> Iterator[None]:
    """Whatever the contents of a file make Python raise becomes a ValueError of one line that names file and reason."""
    try:
        yield
    except BROKEN as reason:
        raise ValueError(f"{path} is a damaged {what} ({first_line(reason)}): {cure}") from reason


def first_line(reason: BaseException) -> str:
    """What an error says, in one line."""
    return (str(reason).splitlines() or [type(reason).__name__])[0]


# What a file says of itself, before anything is made of it


def told(value: Any, kind: type[T], what: str) -> T:
    """The value, if it is of that kind."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{what} should be {kind.__name__} and is {type(value).__name__}")
    return value


def check_total(shapes: Iterable[tuple[int, ...]]) -> None:
    """Raise ValueError if the tensors of a file claim more than `MOST` entries in all."""
    total = sum(math.prod(shape) for shape in shapes)
    if total > MOST:
        raise ValueError(f"its layers claim {total:,} weights, more than {MOST:,}")


def told_shape(sizes: Any, what: str) -> tuple[int, ...]:
    """Sizes of a tensor, none negative, of at most `MOST` entries."""
    shape = tuple(told(size, int, f"a size of {what}") for size in told(sizes, list, f"the shape of {what}"))
    if min(shape, default=0) < 0 or math.prod(shape) > MOST:
        raise ValueError(f"{what} can't have shape {shape}")
    return shape
