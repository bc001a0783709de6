"""What a file of torch.save may claim: no more than it is long. Looked at before anything is unpacked."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import torch
from torch import Tensor


def check_archive(file: Path | IO[bytes], size: int) -> None:
    """Raise ValueError for parts that are compressed (torch's never are), longer than the file of `size` bytes, stored
    twice, or not what was written, which torch itself would not notice.
    """
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        return  # the form of before 2020, or nothing that torch reads
    with archive:
        _check_members(archive.infolist(), size)
        try:
            damaged = archive.testzip()
        except (zipfile.BadZipFile, RuntimeError, OSError, EOFError) as error:  # what zipfile raises
            raise ValueError(f"a part of it cannot be read ({error})") from error
    if damaged is not None:
        raise ValueError(f"its part {damaged} is not what was written")


def _check_members(members: Sequence[zipfile.ZipInfo], size: int) -> None:
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("its parts are compressed, which torch's never are")
    if sum(member.file_size for member in members) > size:
        raise ValueError("its parts claim to be longer than the file")
    if len({member.filename for member in members}) < len(members):
        raise ValueError("it stores a part twice")


def check_tensor(key: str, tensor: Tensor, most: int) -> None:
    """Raise ValueError for a tensor of more than `most` bytes (strides of zero), or in another layout."""
    dense = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not dense or tensor.numel() * tensor.element_size() > most:
        raise ValueError(f"its {key!r} is no plain tensor")
