"""Is it smaller, is it faster? What pruned layers take in each form of storage, and how long each takes to apply."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from vlp_bench.pruning.masks.bit_packing import store

GROUP, KEPT = 4, 2  # 2:4
FORMS = ("dense", "bit mask + values", "coded mask + values", "CSR int32", "CSR int64", "2:4")


@dataclass(frozen=True)
class Size:
    """Bytes of the pruned layers in one form. `possible` is false where the form can't hold these masks."""

    form: str
    bytes: int
    possible: bool = True


@dataclass(frozen=True)
class Time:
    """Milliseconds that all pruned layers take, one after the other, on so many tokens (rows of the input)."""

    form: str
    tokens: int
    milliseconds: float


def sizes(masks: Mapping[str, Tensor], itemsize: int = 4) -> list[Size]:
    """Bytes of the masked layers in every form of FORMS, with values of `itemsize` bytes."""
    total = sum(mask.numel() for mask in masks.values())
    values = itemsize * sum(int(mask.sum()) for mask in masks.values())
    plain, compact = (
        sum(t.numel() * t.element_size() for t in store(list(masks.values()), form).values())
        for form in ("plain", "compact")
    )
    found = {"dense": itemsize * total, "bit mask + values": plain + values, "coded mask + values": compact + values}
    for width in (4, 8):
        indices = sum(int(mask.sum()) + len(mask) + 1 for mask in masks.values())
        found[f"CSR int{8 * width}"] = values + width * indices
    broken = broken_groups(masks)
    found["2:4"] = total * KEPT // GROUP * itemsize + total * KEPT // GROUP // 4  # two bits say where a value was
    return [Size(form, found[form], form != "2:4" or not broken) for form in FORMS]


def broken_groups(masks: Mapping[str, Tensor]) -> float:
    """Share of groups of four neighbours along a row that keep more than two, which 2:4 storage can't hold."""
    groups = [mask.reshape(-1, GROUP) for mask in masks.values() if mask.shape[-1] % GROUP == 0]
    odd = sum(mask.numel() / GROUP for mask in masks.values() if mask.shape[-1] % GROUP)
    broken = sum(int((group.sum(1) > KEPT).sum()) for group in groups) + odd
    return broken / max(1, sum(mask.numel() / GROUP for mask in masks.values()))


def times(
    weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], tokens: Sequence[int], device: str, rounds: int = 5
) -> list[Time]:
    """How long the layers take, dense and sparse. Of one shape, the layer of median density is measured for all.

    Args:
        weights: of the masked layers, (d_out, d_in).
        masks: of the same layers.
        tokens: numbers of rows of the input.
        device: "cpu" or "cuda".
        rounds: the median of so many counts, dense and sparse taken in turn.
    """
    shapes: dict[tuple[int, ...], list[str]] = {}
    for name, mask in masks.items():
        shapes.setdefault(tuple(mask.shape), []).append(name)
    found: dict[tuple[str, int], float] = {}
    for names in shapes.values():
        name = sorted(names, key=lambda name: int(masks[name].sum()))[len(names) // 2]
        for count in tokens:
            for form, milliseconds in _compared(weights[name], masks[name], count, device, rounds).items():
                found[form, count] = found.get((form, count), 0) + milliseconds * len(names)
    return [Time(form, count, milliseconds) for (form, count), milliseconds in found.items()]


@torch.inference_mode()
def _compared(weight: Tensor, mask: Tensor, tokens: int, device: str, rounds: int) -> dict[str, float]:
    """Median milliseconds of one layer by form."""
    half = device == "cuda"
    dense = weight.detach().masked_fill(~mask, 0).to(device, torch.float16 if half else torch.float32)
    x = torch.randn(tokens, dense.shape[1], generator=torch.Generator().manual_seed(0)).to(dense)
    runs: dict[str, Callable[[], Tensor]] = {"dense": lambda: F.linear(x, dense)}
    if half:
        runs |= _two_of_four(dense, x)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        csr, wide = dense.float().to_sparse_csr(), x.float()
    runs["CSR"] = lambda: (csr @ wide.t()).t()
    spent: dict[str, list[float]] = {form: [] for form in runs}
    for number in range(rounds + 1):
        for form, run in runs.items():
            milliseconds = _milliseconds(run, device)
            if number:  # the first round warms up
                spent[form].append(milliseconds)
    return {form: median(own) for form, own in spent.items()}


def _two_of_four(dense: Tensor, x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """2:4 as the GPU computes it, on the two largest of every four; nothing where the shapes don't allow it."""
    rows, columns = dense.shape
    if rows % 32 or columns % 64:
        return {}
    groups = dense.view(-1, GROUP)
    kept = torch.zeros_like(groups).scatter_(1, groups.abs().topk(KEPT, 1).indices, 1.0)
    sparse = torch.sparse.to_sparse_semi_structured((groups * kept).view(rows, columns))
    padded = F.pad(x, (0, 0, 0, -len(x) % 8))
    return {"2:4": lambda: F.linear(padded, sparse)}


def _milliseconds(run: Callable[[], Tensor], device: str) -> float:
    """Of one call, from as many as take about 2 ms."""
    _wait(device)
    started, calls = time.perf_counter(), 0
    while not calls or time.perf_counter() - started < 0.002:
        run()
        calls += 1
    _wait(device)
    return 1000 * (time.perf_counter() - started) / calls


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


# In words


def verdict(found: Sequence[Size], measured: Sequence[Time]) -> list[str]:
    """Plain sentences: how much smaller, and for every number of tokens whether anything sparse is faster."""
    by_form = {size.form: size.bytes for size in found if size.possible}
    best = min(by_form, key=lambda form: by_form[form])
    ratio = by_form["dense"] / by_form[best]
    smaller = f"Smaller: {best} takes {ratio:.1f} times less than dense." if best != "dense" else "Not smaller."
    return [smaller, *(_faster(measured, tokens) for tokens in dict.fromkeys(time.tokens for time in measured))]


def _faster(measured: Sequence[Time], tokens: int) -> str:
    own = {time.form: time.milliseconds for time in measured if time.tokens == tokens}
    dense = own.pop("dense")
    form = min(own, key=lambda form: own[form])
    what = f"{tokens} token{'s' if tokens > 1 else ''}"
    if own[form] < dense:
        other = " (other weights: the two largest of every four)" if form == "2:4" else ""
        return f"Faster at {what}: {form} takes {dense / own[form]:.2f} times less than dense{other}."
    return f"Sparse is not faster at {what}: {form} takes {own[form] / dense:.2f} times as long as dense."
