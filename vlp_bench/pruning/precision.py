"""The precision of passes over calibration data: a choice that is said, never what the process happens to be set to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, get_args

import torch

from vlp_bench.pruning.checks import check_choice

Precision = Literal["fp32", "tf32", "bf16"]
ASKED = ("auto", *get_args(Precision))
FASTEST: dict[str, Precision] = {"multiflow": "bf16", "snip": "bf16", "gblm": "bf16"}
"""By pruner, the fastest whose masks differ from those of fp32 by at most a tenth of what two draws of data differ by.

Measured (1 - IoU of kept weights): MULTIFLOW bf16 0.0004, draws 0.007 to 0.025; SNIP bf16 0.014 to 0.041, draws 0.48 to
0.62; GBLM bf16 0.0058, draws 0.142; Wanda bf16 0.0034, draws 0.0104, which won't do; nor will RIA (0.0006 of 0.0049),
OWL (0.0036 of 0.0109), SparseGPT (0.0088 of 0.0235) and IterSNIP (0.613 of 0.618: its steps lead anywhere). TAMT's
masks were one and the same, which tells nothing. What nobody has measured (`benchmarks/precision.py` does) is computed
in fp32.
"""

AMPERE = (8, 0)
SLOW = "this processor has no matrix units for bfloat16 (AMX)"


def multiplies_bf16(device: torch.device) -> bool:
    """Whether matrix products are faster in bfloat16 than in float32: on a GPU, and on a processor with AMX.

    Measured, seconds of a step of the XVLM of width 256 on one thread, beside float32: AMX 0.16 and 0.26; AVX-512 with
    dot products of bfloat16 0.39 and 0.26, without them 0.86; AVX2 4.4 and 0.29. A torch that cannot tell counts as no.
    """
    return device.type == "cuda" or (device.type == "cpu" and bool(_units().get("amx_bf16", False)))


def _units() -> Mapping[str, Any]:
    """What torch knows of the processor by name; nothing where it cannot tell."""
    return getattr(torch.cpu, "get_capabilities", dict)()


def slow_dtype(dtype: torch.dtype, device: torch.device) -> str:
    """What to say of a model stored in 16 bits on an x86 processor without units for them; else empty.

    Measured, milliseconds of a layer of 1,024 × 1,024 on 512 rows, one thread; float32 takes 7: bfloat16 1.4 with AMX,
    10 with dot products of bfloat16, 29 with AVX-512 alone, 57 with AVX2; float16 6.5 with AVX-512 FP16, else 57.
    """
    known = _units()
    unit = {torch.bfloat16: "amx_bf16", torch.float16: "avx512_fp16"}.get(dtype)
    if device.type != "cpu" or unit is None or known.get("architecture") != "x86_64" or known.get(unit, False):
        return ""
    name = str(dtype).removeprefix("torch.")
    return f"this processor multiplies {name} slower than float32, up to 8 times: dtype=float32 takes twice the memory"


def resolved(asked: str, pruner: str, device: torch.device) -> Precision:
    """What "auto" stands for: the fastest on a GPU that is known to do, fp32 elsewhere; other words for themselves.

    Raises:
        ValueError: another word, or tf32 on a device without it.
    """
    check_choice("pruning_precision", asked, ASKED)
    check_device("pruning_precision", asked, device, "fp32, bf16 or auto")
    if asked == "auto":
        return FASTEST.get(pruner, "fp32") if device.type == "cuda" else "fp32"
    return asked  # pyright: ignore[reportReturnType]


def check_device(key: str, precision: str, device: torch.device, others: str) -> None:
    """Raises ValueError for tf32 on a processor, or on a GPU older than Ampere: products would be of float32."""
    if precision != "tf32" or (device.type == "cuda" and torch.cuda.get_device_capability(device) >= AMPERE):
        return
    name = "this GPU" if device.type == "cuda" else device.type
    raise ValueError(f"{key}=tf32: {name} has no TF32; use {others}")


def without_effect(asked: str, pruner: str, reads: str) -> str:
    """What to say of a precision that is asked for with a pruner that makes no pass over data; else empty.

    `reads`: what the pruner reads, see `Needs.reads`.
    """
    idle = reads == "weights" and asked not in ("auto", "fp32")
    return f"pruning_precision={asked} has no effect: pruner={pruner} makes no pass over data" if idle else ""


@contextmanager
def products_in(precision: Precision) -> Iterator[None]:
    """Matrix products and convolutions of float32 in TF32, or in no case; settings are as before afterwards."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def cast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """For a forward pass and its loss alone: what is added up of it keeps its own type."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


@contextmanager
def casts_kept(precision: Precision) -> Iterator[None]:
    """Weights are cast once for all `cast` inside, not once for each; they must not change in between."""
    if precision != "bf16":
        yield
        return
    torch.autocast_increment_nesting()  # autocast forgets its casts where the outermost ends
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()


def uncast(device: torch.device) -> AbstractContextManager[Any]:
    """Inside a `cast`, for what is added up."""
    casts = device.type in ("cpu", "cuda") and torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if casts else nullcontext()
