"""What a file of torch.save may claim: no more than it is long. Looked at before anything is unpacked."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO

import torch
from torch import Tensor


def check_archive(file: Path | IO[bytes], size: int) -> None:
    """Raise ValueError for parts that are compressed (torch's never are) or longer than the file of `size` bytes."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except zipfile.BadZipFile:
        return  # the form of before 2020, or nothing that torch reads
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("its parts are compressed, which torch's never are")
    if sum(member.file_size for member in members) > size:
        raise ValueError("its parts claim to be longer than the file")


def check_tensor(key: str, tensor: Tensor, most: int) -> None:
    """Raise ValueError for a tensor of more than `most` bytes (strides of zero), or in another layout."""
    dense = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not dense or tensor.numel() * tensor.element_size() > most:
        raise ValueError(f"its {key!r} is no plain tensor")
