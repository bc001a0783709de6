"""Mask files: which weights are kept, the new values of those that a solver changed, and the report of the run.

One safetensors file, in a plain form (one bit a weight) or a compact one (about the masks' entropy), see `positions`.
Its header is JSON: `format`, `form` and `about`, which holds `report`, how the masks came about, and `layers`, a list
of [modality, block, {name within the block: [kept, d_out, d_in]}]. In the compact form `about` is a tensor of bytes,
the same JSON deflated.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlp_bench.pruning.masks.bit_packing import Form, fetch, pack, store, unpack
from vlp_bench.pruning.masks.safetensors_files import (
    check_total,
    read_tensors,
    refusing,
    told,
    told_shape,
    write_tensors,
)
from vlp_bench.pruning.selection.thresholds import count

__all__ = ["pack", "read", "unpack", "write"]

FORMAT = "vlp_bench masks 2"
CURE = "prune again, or copy it again"
LONGEST = 1 << 24  # bytes of the JSON `about`: some hundred thousand layers
VALUES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
NOWHERE = {"modality": "", "block": ""}
WHOLE = "/bias"  # after the name of what is stored as it is
Contents = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any], dict[str, Tensor]]
"""Masks, weights, report, biases."""


def write(
    path: str | Path,
    masks: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    report: dict[str, Any],
    form: Form = "plain",
    biases: Mapping[str, Tensor] | None = None,
) -> Path:
    """Writes a mask file, whole or not at all, and returns its path.

    Args:
        path: where to; its folder is made.
        masks: by parameter name, bool.
        weights: new values of some of the layers; only those of kept weights are stored.
        report: JSON.
        form: "plain": one bit a weight; "compact": about the masks' entropy, at some seconds per 100 M weights.
        biases: new values of biases by parameter name.
    """
    biases = biases or {}
    for name, weight in (*weights.items(), *biases.items()):
        _check_values(name, weight)
    known = report.get("layers", {})
    short = report | {"layers": None} if known else report
    about = json.dumps({"report": short, "layers": _table(masks, known)}, separators=(",", ":"))
    header = {"format": FORMAT, "form": form} | ({"about": about} if form == "plain" else {})
    tensors = store(list(masks.values()), form)
    if form == "compact":
        tensors["about"] = torch.frombuffer(bytearray(zlib.compress(about.encode(), 9)), dtype=torch.uint8)
    tensors |= {f"{name}/weight": weight.detach().cpu()[masks[name].cpu()] for name, weight in weights.items()}
    tensors |= {f"{name}{WHOLE}": bias for name, bias in biases.items()}
    return write_tensors(path, tensors, header)


def _table(masks: Mapping[str, Tensor], known: Mapping[str, Any]) -> list[list[Any]]:
    """The layers in their order, those of one place side by side in one entry; a name without its block's."""
    table: list[list[Any]] = []
    for name, mask in masks.items():
        place = known.get(name, NOWHERE)
        key = [place["modality"], place["block"]]
        if not table or table[-1][:2] != key:
            table.append([*key, {}])
        table[-1][2][_within(name, place["block"])] = [count(mask), *mask.shape]
    return table


def _within(name: str, block: str) -> str:
    """The name's part after its block; a name that doesn't start with its block keeps all of it, after a slash."""
    return name.removeprefix(f"{block}.") if block and name.startswith(f"{block}.") else f"/{name}"


def _rows(table: Any) -> Iterator[tuple[str, dict[str, Any], tuple[int, ...]]]:
    """Name, report and shape of every layer of a table."""
    for modality, block, own in told(table, list, "the table of layers"):
        place = {"modality": told(modality, str, "a modality"), "block": told(block, str, "a block")}
        for part, (kept, *sizes) in told(own, dict, "a block's layers").items():
            name = part[1:] if part.startswith("/") else f"{block}.{part}"
            shape = told_shape(sizes, name)
            yield name, {"kept": told(kept, int, f"what {name} keeps"), "total": math.prod(shape)} | place, shape


def read(path: str | Path) -> Contents:
    """Masks, new weights, report and new biases of a mask file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is truncated or damaged, or something else; the message names it and the reason.
    """
    tensors, header = read_tensors(path, FORMAT, "mask file", CURE)
    with refusing(path, "mask file", CURE):
        return _contents(tensors, header)
    raise AssertionError("the contents are returned or refused")


def _contents(tensors: dict[str, Tensor], header: dict[str, Any]) -> Contents:
    about = header["about"] if header["form"] == "plain" else _inflated(tensors.pop("about").numpy().tobytes())
    known = told(json.loads(about), dict, "what it tells about itself")
    report, rows = told(known["report"], dict, "its report"), list(_rows(known["layers"]))
    shapes = [shape for _, _, shape in rows]
    check_total(shapes)
    found = fetch(tensors, shapes, header["form"])
    masks = {name: mask for (name, _, _), mask in zip(rows, found, strict=True)}
    for name, layer, _ in rows:
        if (kept := count(masks[name])) != layer["kept"]:
            raise ValueError(f"{name} should keep {layer['kept']} weights and keeps {kept}")
    biases = {key.removesuffix(WHOLE): tensors.pop(key) for key in list(tensors) if key.endswith(WHOLE)}
    for name, bias in biases.items():
        _check_values(name, bias)
        if not torch.isfinite(bias).all():
            raise ValueError(f"the new values of {name} hold NaN or infinity")
    weights = {key.removesuffix("/weight"): values for key, values in tensors.items()}
    if "layers" in report:
        report["layers"] = {name: layer for name, layer, _ in rows}
    return masks, {name: _spread(name, values, masks[name]) for name, values in weights.items()}, report, biases


def _inflated(data: bytes) -> str:
    """The text of deflated bytes; a few of them can claim gigabytes, which are not made."""
    inflate = zlib.decompressobj()
    text = inflate.decompress(data, LONGEST)
    if not inflate.eof:
        raise ValueError(f"what it tells about itself is incomplete, or longer than {LONGEST >> 20} MiB")
    return text.decode()


def _check_values(name: str, values: Tensor) -> None:
    if values.dtype not in VALUES:
        raise ValueError(f"the new weights of {name!r} are {values.dtype}: floating-point numbers are needed")


def _spread(name: str, values: Tensor, mask: Tensor) -> Tensor:
    """The survivors' values at their places, zero elsewhere."""
    _check_values(name, values)
    if values.numel() != count(mask) or not torch.isfinite(values).all():
        raise ValueError(f"the weights of {name} don't fit its mask or hold NaN")
    return torch.zeros(mask.shape, dtype=values.dtype).masked_scatter_(mask, values)
