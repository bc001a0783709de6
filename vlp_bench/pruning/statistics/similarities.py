"""How alike the tokens are that a layer gives, within a modality and across (TAMP, Findings of ACL 2025)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp_bench.pruning.adapter import modality_mask
from vlp_bench.pruning.layers import Layer, Reader
from vlp_bench.pruning.statistics.batch_loop import refuse_infinite
from vlp_bench.pruning.statistics.data_parallel import Event
from vlp_bench.pruning.statistics.inputs import in_rows, watch
from vlp_bench.pruning.statistics.token_masks import TokenMasks

Outputs = Callable[[str, Tensor], None]  # (layer, its outputs (rows, tokens, d_out))


@dataclass(frozen=True)
class OutputSimilarities:
    """Statistic: (3,) float64 by layer, the `similarities` of its output tokens, means over rows; NaN: no row has."""

    def of(self, calibration: Any) -> dict[str, Tensor]:
        """By layer."""
        found = {name: torch.zeros(2, 3, dtype=torch.float64) for name in calibration.layers}
        rows, telling = dict.fromkeys(found, 0), dict[str, Tensor]()
        part: list[Any] = [None]

        def take(event: Event) -> None:
            rows[event.layer] += int(event.numbers[0])
            found[event.layer] += event.tensors[0].cpu()
            telling[event.layer] = telling.get(event.layer, 0) + event.tensors[1]

        relay = calibration.relay(take)

        def see(name: str, outputs: Tensor) -> None:
            if not outputs.numel():  # an expert that is sent no token
                return
            outputs = in_rows(outputs, calibration.adapter.rows(part[0]))
            kept, image = masks_of(calibration.adapter, calibration.model, part[0], name, outputs)
            each = torch.stack([similarities(*one) for one in zip(normalised(outputs), kept, image, strict=True)])
            sums = torch.stack([each.nansum(0), (~each.isnan()).sum(0)])
            relay(Event(name, (len(each), 0), (sums, outputs[kept].double().sum())))

        begin = lambda given: part.__setitem__(0, given)  # noqa: E731
        for number in calibration.forwards(relay, outputs_seen(calibration.layers.values(), see), begin):
            refuse_infinite(telling, f"the outputs of {{}} in calibration batch {number}")
        calibration.check_reached(rows)
        return {name: sums / counts for name, (sums, counts) in found.items()}


def similarities(tokens: Tensor, kept: Tensor, image: Tensor) -> Tensor:
    """(3,) float64: mean cosine of pairs of image tokens, of pairs of other tokens, and of one of each; NaN: no pair.

    Of pairs within a modality only positive cosines enter the mean; 0 where none is positive.

    Args:
        tokens: (t, d) of length 1.
        kept: (t,) bool, those that count.
        image: (t,) bool, those of the image.
    """
    groups = tokens[kept & image].double(), tokens[kept & ~image].double()
    return torch.stack([*(_within(group) for group in groups), (groups[0] @ groups[1].t()).mean()]).to("cpu")


def _within(tokens: Tensor) -> Tensor:
    if len(tokens) < 2:
        return tokens.new_tensor(torch.nan)
    cosines = (tokens @ tokens.t()).triu(1)
    return cosines.clamp_min(0).sum() / (cosines > 0).sum().clamp_min(1)


def normalised(outputs: Tensor) -> Tensor:
    """Every token with length 1; zeros stay."""
    return F.normalize(outputs.float(), dim=-1)


def masks_of(adapter: Any, model: nn.Module, part: Any, name: str, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Which of the tokens (rows, t, d) count, and which are the image's, (rows, t) bool each."""
    rows, count = tokens.shape[:2]
    kept, image = TokenMasks(adapter, model, part).at(name, tokens), modality_mask(adapter, part, name, count)
    every = torch.ones(rows, count, dtype=torch.bool, device=tokens.device)
    return (every if kept is None else kept.to(every)), (~every if image is None else image.to(every))


@contextmanager
def outputs_seen(layers: Iterable[Layer], take: Outputs) -> Iterator[None]:
    """Calls `take` with the outputs of every layer, whenever one of its readers is about to compute them."""
    with ExitStack() as undo:
        for layer in layers:
            for reader in layer.readers:
                hook = lambda name, x, layer=layer, reader=reader: take(name, _outputs(layer, reader, x))  # noqa: E731
                undo.callback(watch(layer.name, reader, hook).remove)
        yield


def _outputs(layer: Layer, reader: Reader, x: Tensor) -> Tensor:
    """(rows, tokens, d_out) of inputs (rows, ..., d_in); one token a row where there are no others."""
    bias, matrix = _bias(reader), layer.matrix
    y = F.linear(x.to(matrix.dtype), matrix, None if bias is None else bias.to(matrix.dtype))
    return y.reshape(len(y), math.prod(y.shape[1:-1]), y.shape[-1]) if y.ndim > 1 else y.view(1, 1, -1)


def _bias(reader: Reader) -> Tensor | None:
    module: Any = reader.module
    if not isinstance(module, nn.MultiheadAttention) or reader.attribute == "out_proj.weight":
        return module.out_proj.bias if isinstance(module, nn.MultiheadAttention) else module.bias
    if module.in_proj_bias is None or reader.attribute == "in_proj_weight":
        return module.in_proj_bias
    return module.in_proj_bias.chunk(3)["qkv".index(reader.attribute[0])]
