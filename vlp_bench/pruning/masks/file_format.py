"""Mask files: which weights are kept, the new values of those that a solver changed, and the report of the run.

One safetensors file, in a plain form (one bit a weight) or a compact one (about the masks' entropy), see `positions`.
Its header is JSON: `format`, `form` and `about`, which holds `report`, how the masks came about, and `layers`, a list
of [modality, block, {name within the block: [kept, d_out, d_in]}]. In the compact form `about` is a tensor of bytes,
the same JSON deflated.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlp_bench.pruning.masks.bit_packing import Form, fetch, pack, store, unpack
from vlp_bench.pruning.masks.safetensors_files import read_tensors, write_tensors

__all__ = ["pack", "read", "unpack", "write"]

FORMAT = "vlp_bench masks 2"
CURE = "prune again, or copy it again"
NOWHERE = {"modality": "", "block": ""}
Contents = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]  # masks, weights, report


def write(
    path: str | Path,
    masks: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    report: dict[str, Any],
    form: Form = "plain",
) -> Path:
    """Writes a mask file, whole or not at all, and returns its path.

    Args:
        path: where to; its folder is made.
        masks: by parameter name, bool.
        weights: new values of some of the layers; only those of kept weights are stored.
        report: JSON.
        form: "plain": one bit a weight; "compact": about the masks' entropy, at some seconds per 100 M weights.
    """
    known = report.get("layers", {})
    short = report | {"layers": None} if known else report
    about = json.dumps({"report": short, "layers": _table(masks, known)}, separators=(",", ":"))
    header = {"format": FORMAT, "form": form} | ({"about": about} if form == "plain" else {})
    tensors = store(list(masks.values()), form)
    if form == "compact":
        tensors["about"] = torch.frombuffer(bytearray(zlib.compress(about.encode(), 9)), dtype=torch.uint8)
    tensors |= {f"{name}/weight": weight.detach().cpu()[masks[name].cpu()] for name, weight in weights.items()}
    return write_tensors(path, tensors, header)


def _table(masks: Mapping[str, Tensor], known: Mapping[str, Any]) -> list[list[Any]]:
    """The layers in their order, those of one place side by side in one entry; a name without its block's."""
    table: list[list[Any]] = []
    for name, mask in masks.items():
        place = known.get(name, NOWHERE)
        key = [place["modality"], place["block"]]
        if not table or table[-1][:2] != key:
            table.append([*key, {}])
        table[-1][2][_within(name, place["block"])] = [int(mask.sum()), *mask.shape]
    return table


def _within(name: str, block: str) -> str:
    """The name's part after its block; a name that doesn't start with its block keeps all of it, after a slash."""
    return name.removeprefix(f"{block}.") if block and name.startswith(f"{block}.") else f"/{name}"


def _rows(table: list[list[Any]]) -> Iterator[tuple[str, dict[str, Any], tuple[int, ...]]]:
    """Name, report and shape of every layer of a table."""
    for modality, block, own in table:
        for part, (kept, *shape) in own.items():
            name = part[1:] if part.startswith("/") else f"{block}.{part}"
            total = torch.Size(shape).numel()
            yield name, {"kept": kept, "total": total, "modality": modality, "block": block}, tuple(shape)


def read(path: str | Path) -> Contents:
    """Masks, new weights and report of a mask file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is truncated or damaged, or something else; the message names it and the reason.
    """
    tensors, header = read_tensors(path, FORMAT, "mask file", CURE)
    try:
        return _contents(tensors, header)
    except (KeyError, TypeError, ValueError, zlib.error) as reason:
        raise ValueError(f"{path} is a damaged mask file ({reason}): {CURE}") from reason


def _contents(tensors: dict[str, Tensor], header: dict[str, Any]) -> Contents:
    about = header["about"] if header["form"] == "plain" else zlib.decompress(tensors.pop("about").numpy().tobytes())
    known = json.loads(about)
    report, rows = known["report"], list(_rows(known["layers"]))
    found = fetch(tensors, [shape for _, _, shape in rows], header["form"])
    masks = {name: mask for (name, _, _), mask in zip(rows, found, strict=True)}
    for name, layer, _ in rows:
        if int(masks[name].sum()) != layer["kept"]:
            raise ValueError(f"{name} should keep {layer['kept']} weights and keeps {int(masks[name].sum())}")
    weights = {key.removesuffix("/weight"): values for key, values in tensors.items()}
    if "layers" in report:
        report["layers"] = {name: layer for name, layer, _ in rows}
    return masks, {name: _spread(name, values, masks[name]) for name, values in weights.items()}, report


def _spread(name: str, values: Tensor, mask: Tensor) -> Tensor:
    """The survivors' values at their places, zero elsewhere."""
    if values.numel() != int(mask.sum()) or not torch.isfinite(values).all():
        raise ValueError(f"the weights of {name} don't fit its mask or hold NaN")
    return torch.zeros(mask.shape, dtype=values.dtype).masked_scatter_(mask, values)
