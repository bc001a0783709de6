"""Packed sparse checkpoints: the zeros of a pruned model cost about as much as its mask, the rest is stored as it is.

Which entries of a tensor are stored follows from their bits, not from their values: a negative zero is kept, and
everything comes back bit for bit, whatever the type. A tensor that the state dictionary lists twice is stored once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlp_bench.pruning.masks.bit_packing import Form, fetch, store
from vlp_bench.pruning.masks.safetensors_files import (
    check_total,
    read_tensors,
    refusing,
    told,
    told_shape,
    write_tensors,
)
from vlp_bench.pruning.selection.thresholds import count

FORMAT = "vlp_bench packed 1"
CURE = "export it again, or copy it again"
WORTH_IT = 0.1  # share of zeros from which a tensor is packed
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def write(
    path: str | Path, state: Mapping[str, Tensor], about: dict[str, Any] | None = None, form: Form = "compact"
) -> Path:
    """Writes a state dictionary, whole or not at all, and returns the file's path.

    Args:
        path: where to.
        state: tensors of any type and shape.
        about: JSON that `read` gives back.
        form: of the positions, as for mask files.
    """
    own, aliases = without_aliases(state)
    kept = {name: mask for name, tensor in own.items() if (mask := _stored(tensor)) is not None}
    tensors = {f"dense/{name}": tensor.detach() for name, tensor in own.items() if name not in kept}
    sparse = {name: [_dtype(own[name]), *mask.shape] for name, mask in kept.items()}
    for dtype in {dtype for dtype, *_ in sparse.values()}:
        values = [own[name].detach().cpu()[mask] for name, mask in kept.items() if sparse[name][0] == dtype]
        tensors[f"values/{dtype}"] = torch.cat(values)
    index = {"order": list(state) if len(state) > len(sparse) else None, "aliases": aliases, "sparse": sparse}
    short = json.dumps(index, separators=(",", ":"))
    header = {"format": FORMAT, "form": form, "index": short, "about": json.dumps(about or {})}
    return write_tensors(path, tensors | store(list(kept.values()), form), header)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def without_aliases(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The distinct tensors, and for every further name of one its first."""
    own: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tensor.dtype, tensor.device, tuple(tensor.shape), tensor.stride())
        if tensor.numel() and key in seen:
            aliases[name] = seen[key]
        else:
            seen[key] = name
            own[name] = tensor
    return own, aliases


def _stored(tensor: Tensor) -> Tensor | None:
    """Which entries are stored: those that aren't zero in every bit; None where packing isn't worth it."""
    if not tensor.is_floating_point() or not tensor.numel() or not tensor.ndim:
        return None
    mask = tensor.detach().cpu().contiguous().view(_INTEGERS[tensor.element_size()]) != 0
    return mask if count(mask) <= (1 - WORTH_IT) * mask.numel() else None


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dictionary, bit for bit, and what was said about it.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is truncated, damaged or something else; the message names it and the reason.
    """
    tensors, header = read_tensors(path, FORMAT, "packed checkpoint", CURE)
    with refusing(path, "packed checkpoint", CURE):
        return _state(tensors, header), told(json.loads(header["about"]), dict, "what was said about it")
    raise AssertionError("the contents are returned or refused")


def _state(tensors: dict[str, Tensor], header: dict[str, Any]) -> dict[str, Tensor]:
    index = told(json.loads(header["index"]), dict, "its index")
    sparse: dict[str, list[Any]] = told(index["sparse"], dict, "its list of packed tensors")
    shapes = [told_shape(shape, name) for name, (_, *shape) in sparse.items()]
    check_total(shapes)
    masks = fetch(tensors, shapes, header["form"])
    aliases, order = told(index["aliases"], dict, "its aliases"), index["order"] or list(sparse)
    own = {name.removeprefix("dense/"): tensor for name, tensor in tensors.items() if name.startswith("dense/")}
    taken = dict.fromkeys((dtype for dtype, *_ in sparse.values()), 0)
    for (name, (dtype, *_)), mask in zip(sparse.items(), masks, strict=True):
        first, last = taken[dtype], taken[dtype] + count(mask)
        values = tensors[f"values/{dtype}"]
        if values.ndim != 1 or last > len(values) or _dtype(values) != dtype:
            raise ValueError(f"{name} should have {last - first} values of {dtype}")
        own[name] = torch.zeros(mask.shape, dtype=values.dtype)
        own[name][mask] = values[first:last]
        taken[dtype] = last
    if any(len(tensors[f"values/{dtype}"]) != count for dtype, count in taken.items()):
        raise ValueError("there are more values than places")
    return {name: own[aliases.get(name, name)] for name in told(order, list, "its order")}
