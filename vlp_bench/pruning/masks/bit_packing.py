"""Which weights are kept, in few bits: eight to a byte, or coded by how dense each row and column is.

Masks of one model differ in density by layer, and inside a layer by output and input: a pruner that scores neurons
(MULTIFLOW) makes some rows and columns nearly empty. The compact form stores, where it pays, the log-odds of each row
and column in steps of 1/16, and codes every bit with the probability that they give.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlp_bench.pruning.checks import check_choice
from vlp_bench.pruning.masks.range_coder import ONE, check_length, decode, encode

Form = Literal["plain", "compact"]
FORMS = ("plain", "compact")
Shape = tuple[int, ...]
GROUP = 1 << 24  # weights coded together; bounds the memory that coding takes
STEPS = 16  # of log-odds, per unit
WIDEST = 127  # steps of log-odds, either way
ROWS, COLUMNS = 1, 2  # flags of a layer
_CHANCES = np.array(
    [min(ONE - 1, max(1, round(ONE / (1 + math.exp(-odds / STEPS))))) for odds in range(-WIDEST, WIDEST + 1)], np.uint16
)


def pack(mask: Tensor) -> Tensor:
    """(⌈n / 8⌉,) uint8 from a bool tensor of n entries; the first entry is the lowest bit."""
    return torch.from_numpy(np.packbits(mask.detach().cpu().reshape(-1).numpy(), bitorder="little"))


def unpack(bits: Tensor, shape: Shape) -> Tensor:
    """The inverse of `pack`. Raises ValueError if the number of bytes doesn't fit the shape."""
    count = math.prod(shape)
    if bits.dtype != torch.uint8 or bits.numel() != (count + 7) // 8:
        raise ValueError(f"{bits.numel()} bytes of {bits.dtype} are no mask of shape {shape}")
    flat = np.unpackbits(bits.cpu().numpy(), count=count, bitorder="little")
    return torch.from_numpy(flat).bool().view(shape)


def store(masks: Sequence[Tensor], form: Form) -> dict[str, Tensor]:
    """The tensors of a file that hold these masks: `bits`, or `codes` with what is needed to read them."""
    check_choice("form", form, FORMS)
    if form == "plain":
        return {"bits": torch.cat([pack(mask) for mask in masks]) if masks else torch.empty(0, dtype=torch.uint8)}
    models = [_model(_matrix(mask)) for mask in masks]
    shapes = [tuple(mask.shape) for mask in masks]
    codes = [
        encode(
            np.concatenate([_matrix(masks[i]).reshape(-1) for i in own]),
            np.concatenate([_chances(shapes[i], *models[i]) for i in own]),
        )
        for own in _groups(shapes)
    ]
    return {
        "codes": torch.from_numpy(np.concatenate([np.empty(0, np.uint16), *codes])),
        "lengths": torch.tensor([len(code) for code in codes], dtype=torch.int64),
        "flags": torch.tensor([flags for flags, _ in models], dtype=torch.uint8),
        "odds": torch.from_numpy(np.concatenate([np.empty(0, np.int8), *(odds for _, odds in models)])),
    }


def fetch(tensors: dict[str, Tensor], shapes: Sequence[Shape], form: Form) -> list[Tensor]:
    """Takes what `store` made out of `tensors` and returns the masks.

    Raises:
        KeyError: something is missing.
        ValueError: something doesn't fit.
    """
    check_choice("form", form, FORMS)
    if form == "plain":
        sizes = [(math.prod(shape) + 7) // 8 for shape in shapes]
        return [unpack(bits, shape) for bits, shape in zip(_split(tensors.pop("bits"), sizes), shapes, strict=True)]
    codes, lengths, flags, odds = (tensors.pop(name) for name in ("codes", "lengths", "flags", "odds"))
    if len(flags) != len(shapes):
        raise ValueError(f"it tells of {len(flags)} layers and lists {len(shapes)}")
    counts = [_count(shape, int(flag)) for shape, flag in zip(shapes, flags, strict=True)]
    own = [part.numpy() for part in _split(odds, counts)]
    masks: dict[int, Tensor] = {}
    groups = list(_groups(shapes))
    for members, code in zip(groups, _split(codes, lengths.tolist()), strict=True):
        check_length(len(code), sum(math.prod(shapes[i]) for i in members))
        chances = [_chances(shapes[i], int(flags[i]), own[i]) for i in members]
        bits = torch.from_numpy(decode(code.numpy(), np.concatenate(chances)))
        parts = bits.split([len(chance) for chance in chances])
        masks |= {i: part.view(shapes[i]) for i, part in zip(members, parts, strict=True)}
    return [masks[i] for i in range(len(shapes))]


def entropy(masks: Sequence[Tensor]) -> float:
    """Bits that masks take at least if all that is known is how many weights each layer keeps."""
    return sum(float(_entropy(mask.float().mean().item(), mask.numel())) for mask in masks)


def _split(tensor: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    if tensor.ndim != 1 or min(sizes, default=0) < 0 or sum(sizes) != len(tensor):
        raise ValueError(f"{tuple(tensor.shape)} entries where {sum(sizes)} are needed")
    return tensor.split(list(sizes))


def _groups(shapes: Sequence[Shape]) -> Iterator[list[int]]:
    """Layers coded together, by number."""
    own: list[int] = []
    for i, shape in enumerate(shapes):
        if own and sum(math.prod(shapes[j]) for j in own) + math.prod(shape) > GROUP:
            yield own
            own = []
        own.append(i)
    if own:
        yield own


# How dense each row and column is


def _sides(shape: Shape) -> tuple[int, int]:
    """The rows and columns a shape is seen as: (d_out, the rest)."""
    return (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape))


def _matrix(mask: Tensor) -> NDArray[np.bool_]:
    return mask.detach().cpu().bool().contiguous().view(_sides(tuple(mask.shape))).numpy()


def _count(shape: Shape, flags: int) -> int:
    """How many log-odds a layer has: one, or one for each row, or each column, or both."""
    rows, columns = _sides(shape)
    return rows * bool(flags & ROWS) + columns * bool(flags & COLUMNS) or 1


def _model(mask: NDArray[np.bool_]) -> tuple[int, NDArray[np.int8]]:
    """Flags, and the log-odds they speak of; rows and columns only where they save more than they cost."""
    rows, columns = mask.shape
    if not mask.size:
        return 0, np.zeros(1, np.int8)
    by_row, by_column = mask.mean(1), mask.mean(0)
    whole = float(by_row.mean())
    flat = _entropy(whole, mask.size)
    flags = ROWS * (flat - _entropy(by_row, columns).sum() > 8 * rows)
    flags |= COLUMNS * (flat - _entropy(by_column, rows).sum() > 8 * columns)
    if not flags:
        return 0, _steps(_odds(whole, mask.size))[None]
    parts = [_odds(by_row, columns)] if flags & ROWS else []
    if flags & COLUMNS:
        parts.append(_odds(by_column, rows) - (_odds(whole, mask.size) if flags & ROWS else 0))
    return int(flags), np.concatenate([_steps(part) for part in parts])


def _entropy(share: np.ndarray | float, count: int) -> np.ndarray:
    """Bits of `count` draws, each true with probability `share`."""
    p = np.clip(share, 1e-12, 1 - 1e-12)
    return -count * (p * np.log2(p) + (1 - p) * np.log2(1 - p))


def _odds(share: np.ndarray | float, count: int) -> np.ndarray:
    """Log-odds of a share of `count`; none and all are taken for half a one."""
    p = np.clip(share, 0.5 / count, 1 - 0.5 / count)
    return np.log(p / (1 - p))


def _steps(odds: np.ndarray) -> NDArray[np.int8]:
    return np.clip(np.rint(odds * STEPS), -WIDEST, WIDEST).astype(np.int8)


def _chances(shape: Shape, flags: int, odds: NDArray[np.int8]) -> NDArray[np.uint16]:
    """(n,) the probability, in units of 1 / ONE, that each weight is kept."""
    rows, columns = _sides(shape)
    own = odds.astype(np.int16)
    table = np.zeros((rows, columns), np.int16)
    if flags & ROWS:
        table += own[:rows, None]
    if flags & COLUMNS:
        table += own[-columns:]
    if not flags:
        table += own
    return _CHANCES[np.clip(table, -WIDEST, WIDEST).reshape(-1) + WIDEST]
