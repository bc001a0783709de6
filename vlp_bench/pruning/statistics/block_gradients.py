"""Gradients of what a block gives, not of the model's loss: one forward pass, each block with a backward of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.statistics.activation_cache import blocks_of
from vlp_bench.pruning.statistics.around import with_outputs
from vlp_bench.pruning.statistics.batch_loop import NO_GRADIENT, check_reached, refuse_infinite
from vlp_bench.pruning.statistics.data_parallel import Event, Relay
from vlp_bench.pruning.statistics.inputs import in_rows
from vlp_bench.pruning.statistics.protocol import Sums
from vlp_bench.pruning.statistics.token_masks import TokenMasks

UNSEEN = (
    "no calibration batch calls the block of {name!r} as a module, block(x), so what it gives isn't seen: give batches "
    "that do, leave it out in prunable(), or use a pruner without block gradients"
)


@dataclass(frozen=True)
class BlockGradients:
    """Statistic: (d_out, d_in) float32: √ of the mean of g² over the calls of a layer's block, one or more a batch.

    g is the gradient of ‖f(X)‖ for the block's output f(X), the mean over a batch's rows: of samples where batches have
    one row. No label is asked for; tokens that don't count don't count in f(X) either.
    """

    def of(self, calibration: Any) -> Sums:
        """By layer."""
        sums, calls = Sums(), Counter[str]()

        def take(event: Event) -> None:
            sums[event.layer] = sums[event.layer].add_(event.tensors[0]) if event.layer in sums else event.tensors[0]
            calls[event.layer] += 1

        def measure(layers: list[Layer], given: Tensor, counts: Tensor) -> None:
            asked = list(dict.fromkeys(layer.parameter for layer in layers))
            length = torch.where(counts, given, 0).float().flatten(1).norm(dim=1).mean()
            gradients = dict(zip(asked, torch.autograd.grad(length, asked, allow_unused=True), strict=True))
            for layer in layers:
                if (gradient := gradients[layer.parameter]) is not None:
                    relay(Event(layer.name, (1, 0), (layer.part_of(gradient).float().square(),)))

        relay = calibration.relay(take)
        for number in BlockWatch(calibration, measure).through(relay):
            refuse_infinite(sums, f"the block gradients of {{}} in calibration batch {number}")
        for name in calibration.lost_experts(calls, NO_GRADIENT):
            sums[name], calls[name] = torch.zeros_like(calibration.layers[name].weight, dtype=torch.float32), 1
        check_reached(calibration.layers, calls, UNSEEN)
        return {
            name: layer.from_stored(sums[name].div_(calls[name]).sqrt_()) for name, layer in calibration.layers.items()
        }


def holders(
    model: nn.Module, layers: Mapping[str, Layer], of_model: Mapping[str, Layer]
) -> dict[nn.Module, list[Layer]]:
    """The blocks that read the layers, each with those it reads; a layer outside all blocks is held by its reader."""
    owner = {module: block for block in blocks_of(model, of_model.values()) for module in block.modules()}
    found: dict[nn.Module, list[Layer]] = {}
    for layer in layers.values():
        for block in dict.fromkeys(owner.get(reader.module, reader.module) for reader in layer.readers):
            found.setdefault(block, []).append(layer)
    return found


class BlockWatch:
    """Runs the blocks of a calibration's layers with gradients, each cut off from what comes before it.

    Args:
        calibration: whose layers and batches.
        measure: gets the layers of a block that was run, what it gave (rows, ..., d) and which of its tokens count, in
            a shape that fits; gradients of the layers' parameters may be taken, and the weights changed.
    """

    def __init__(self, calibration: Any, measure: Callable[[list[Layer], Tensor, Tensor], None]) -> None:
        self._calibration, self._measure = calibration, measure
        self._blocks = holders(calibration.model, calibration.layers, calibration.before_sweep.layers)
        self._masks: TokenMasks | None = None

    def through(self, relay: Relay, begin: Callable[[], None] = lambda: None) -> Iterator[int]:
        """One pass; the number of every batch once it was run. `begin` is called before every part of a batch."""

        def new(part: Any) -> None:
            self._masks = TokenMasks(self._calibration.adapter, self._calibration.model, part)
            begin()

        with with_outputs(self._calibration.adapter):
            yield from self._calibration.forwards(relay, self._watching(), new)

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """Hooks every block; weights ask for gradients as before afterwards."""
        weights = [layer.parameter for layers in self._blocks.values() for layer in layers]
        before = [(weight, weight.requires_grad) for weight in dict.fromkeys(weights)]
        with ExitStack() as undo:
            for weight, required in before:
                undo.callback(weight.requires_grad_, required)
                weight.requires_grad_(True)
            for block in self._blocks:
                undo.callback(block.register_forward_pre_hook(_cut_off, with_kwargs=True).remove)
                undo.callback(block.register_forward_hook(self._seen).remove)
            yield

    def _seen(self, block: nn.Module, args: Any, output: Any) -> Any:
        layers = self._blocks[block]
        given = next(leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor))
        if given.requires_grad and given.numel():  # an expert may get no rows of a batch
            counts = self._counts(given, layers[-1].name)
            given = in_rows(given, self._masks.rows) if given.ndim == 2 and self._masks is not None else given
            self._measure(layers, given, counts.reshape(*given.shape[:-1], 1) if counts.ndim else counts)
        torch.set_grad_enabled(False)
        return _detached(output)

    def _counts(self, given: Tensor, name: str) -> Tensor:
        """Bool, one for each token of a block's output, or one for all; `name` is of its last layer."""
        mask = self._masks.at(name, given) if self._masks is not None else None
        if mask is None:
            return torch.ones((), dtype=torch.bool, device=given.device)
        return mask.to(given.device).bool()


def _cut_off(block: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    torch.set_grad_enabled(True)
    return _detached(args), _detached(kwargs)


def _detached(item: Any) -> Any:
    return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, item)
