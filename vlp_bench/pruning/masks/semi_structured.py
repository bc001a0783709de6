"""2:4 on a card: which pruned layers torch's semi-structured kernels take, and why the others not.

Torch checks shapes and types, not the pattern: a weight with three in a group of four would silently become another.
So nothing is compressed that doesn't come back bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.masks.size_and_speed import GROUP, KEPT

HALF = (torch.float16, torch.bfloat16)
MULTIPLES = {"CUTLASS": (32, 64), "cuSPARSELt": (16, 16)}  # of rows and columns, in half precision
FIRST_CARDS = (8, 0)  # Ampere


def backend() -> str:
    """The kernels that torch would take."""
    return "cuSPARSELt" if torch.backends.cusparselt.is_available() else "CUTLASS"


def why_not_here(device: torch.device) -> str | None:
    """Why nothing runs in 2:4 on a device; None where it can."""
    if device.type != "cuda":
        return f"torch's 2:4 kernels need a CUDA card, this is {device.type}"
    capability = torch.cuda.get_device_capability(device)
    if capability < FIRST_CARDS:
        return "torch's 2:4 kernels need compute capability 8.0, this card has {}.{}".format(*capability)
    return None


def why_not(layer: Layer, mask: Tensor, kernels: str | None = None) -> str | None:
    """Why a layer under its mask (as stored) can't be compressed, on whatever card; None where it can.

    Args:
        layer: with its weight.
        mask: in the shape of the parameter.
        kernels: "CUTLASS" or "cuSPARSELt"; None: those of this torch.
    """
    kernels = kernels or backend()
    rows, columns = layer.weight.shape
    if layer.transposed:
        return "it is stored as (d_in, d_out), so that groups lie across rows"
    if not all(isinstance(reader.module, nn.Linear) for reader in layer.readers):
        return "what reads it calls no linear layer"
    if layer.weight.dtype not in HALF:
        return f"weights are {str(layer.weight.dtype).removeprefix('torch.')}: float16 or bfloat16 are needed"
    if any(size % least for size, least in zip((rows, columns), MULTIPLES[kernels], strict=True)):
        return f"{rows} x {columns} are no multiples of {' x '.join(map(str, MULTIPLES[kernels]))} ({kernels})"
    if int((mask.view(-1, GROUP).sum(1) > KEPT).sum()):
        return "some groups of four keep more than two"
    return None


def compressed(weight: Tensor) -> Tensor:
    """The weight (d_out, d_in) as torch's 2:4 tensor, on its card.

    Raises:
        ValueError: it doesn't come back as it was.
    """
    sparse = torch.sparse.to_sparse_semi_structured(weight.detach().contiguous())
    if not torch.equal(sparse.to_dense(), weight):
        raise ValueError("the weight isn't 2:4: compressed and taken apart again it is another one")
    return sparse


def compress_layers(layers: Iterable[Layer], masks: Mapping[str, Tensor]) -> dict[str, str]:
    """Puts 2:4 tensors in the places of weights that can be, for inference; returns why not, by name, of the others.

    Inputs need a multiple of 8 tokens (torch pads them).
    """
    left = {}
    for layer in layers:
        reason = why_not_here(layer.weight.device) or why_not(layer, masks[layer.name])
        if reason is not None:
            left[layer.name] = reason
            continue
        weight = nn.Parameter(compressed(layer.weight), requires_grad=False)
        for reader in layer.readers:
            setattr(reader.module, reader.attribute, weight)
    return left


def told(left: Mapping[str, str]) -> list[str]:
    """A sentence for each reason, with the first layer it holds for and how many more."""
    names: dict[str, list[str]] = {}
    for name, reason in left.items():
        names.setdefault(reason, []).append(name)
    return [
        f"not in 2:4: {own[0]}{f' and {len(own) - 1} more' * (len(own) > 1)}: {reason}" for reason, own in names.items()
    ]
