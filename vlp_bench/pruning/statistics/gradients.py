"""Gradients of the prunable weights alone, and the statistics that are made of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.statistics.protocol import LayerStatistic
from vlp_bench.pruning.statistics.slices import SlicesWatch

SIZES = ("gradient", "magnitude", "squared")  # of a layer's gradient: Σ|g|, Σ|w·g| and Σ(w·g)²
CACHED = 1 << 16  # floats that a processor works on in one go


class GradientStatistic(LayerStatistic, ABC):
    """The mean over the batches of something that a batch's gradient gives.

    Attributes:
        linear: whether a batch's is the sum of its parts': then it is added part by part, as gradients arrive, and no
            batch's gradient is kept beside the sums.
    """

    linear: ClassVar[bool] = False

    @abstractmethod
    def measure(self, layer: Layer, gradient: Tensor) -> Tensor:
        """What is averaged, of one batch's (or part's) gradient: float32, in the parameter's shape."""


@dataclass(frozen=True)
class MeanGradient(GradientStatistic):
    """(d_out, d_in) float32: the gradient of the loss, averaged over parts and batches."""

    linear: ClassVar[bool] = True

    def measure(self, layer: Layer, gradient: Tensor) -> Tensor:
        return gradient


@dataclass(frozen=True)
class MeanGradientMagnitude(GradientStatistic):
    """(d_out, d_in) float32: |g|, the mean over the batches' gradients g."""

    def measure(self, layer: Layer, gradient: Tensor) -> Tensor:
        return gradient.abs()


@dataclass(frozen=True)
class FisherDiagonal(GradientStatistic):
    """(d_out, d_in) float32: g², the mean over the batches' gradients g: the diagonal of the empirical Fisher matrix.

    Of batches, not of single samples: what samples of one batch say against each other cancels.
    """

    def measure(self, layer: Layer, gradient: Tensor) -> Tensor:
        return gradient.square()


@dataclass(frozen=True)
class GradientSizes(GradientStatistic):
    """(3,) float64: the sums of |g|, |w·g| and (w·g)² over a layer's weights, each the mean over the batches' g."""

    along: ClassVar[tuple[LayerStatistic, ...]] = (MeanGradient(),)

    def shape(self, layer: Layer) -> tuple[int, ...]:
        return (len(SIZES),)

    def measure(self, layer: Layer, gradient: Tensor) -> Tensor:
        return sizes(gradient, layer.weight.detach())


def sizes(gradient: Tensor, weight: Tensor) -> Tensor:
    """(3,) float64: Σ|g|, Σ|w·g| and Σ(w·g)², in pieces that stay in a processor's cache."""
    length = CACHED if gradient.device.type == "cpu" else gradient.numel()
    total = torch.zeros(3, dtype=torch.float64, device=gradient.device)
    for g, w in zip(gradient.reshape(-1).split(length), weight.reshape(-1).split(length), strict=True):
        flowing = g * w
        total += torch.stack([g.abs().sum(), flowing.abs().sum(), flowing.dot(flowing)])
    return total


@contextmanager
def gradients_taken(
    model: nn.Module, layers: Mapping[str, Layer], take: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Every gradient of a prunable weight goes to `take(name, gradient)` as it arrives; none stays on the model.

    What the model would train keeps asking for gradients: reentrant activation checkpointing gives none to what lies
    inside where nothing before it asks for one. In a model that is frozen as a whole all ask. See `backward`.
    """
    before = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    all_frozen = not any(required for _, required, _ in before)
    owners: dict[int, list[Layer]] = {}
    for layer in layers.values():
        owners.setdefault(id(layer.parameter), []).append(layer)
    handles = []
    try:
        for p, required, _ in before:
            p.grad = None
            p.requires_grad_(id(p) in owners or ((required or all_frozen) and p.is_floating_point()))
            if p.requires_grad:
                handles.append(p.register_post_accumulate_grad_hook(_hook(owners.get(id(p), []), take)))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for p, required, gradient in before:
            p.requires_grad_(required)
            p.grad = gradient


def backward(loss: Tensor, layers: Mapping[str, Layer]) -> None:
    """Computes the gradients of the layers alone, or of all that ask where a function of the graph is Python's.

    That one may be a reentrant checkpoint, which runs a backward of its own and can't be told what is wanted. A loss
    that nothing leads to has no gradients.
    """
    if loss.grad_fn is not None:
        wanted = list(dict.fromkeys(layer.parameter for layer in layers.values()))
        loss.backward(inputs=None if _calls_python(loss.grad_fn) else wanted)


def _calls_python(root: Any) -> bool:
    waiting, seen = [root], {root}
    while waiting:
        node = waiting.pop()
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            return True
        new = {before for before, _ in node.next_functions if before is not None} - seen
        seen |= new
        waiting += new
    return False


def _hook(layers: list[Layer], take: Callable[[str, Tensor], None]) -> Any:
    def hook(parameter: Tensor) -> None:
        gradient, parameter.grad = parameter.grad, None
        assert gradient is not None
        for layer in layers:
            take(layer.name, layer.part_of(gradient).float())

    return hook


class Reach:
    """Which layers the batches of a pass reach: a gradient arrives, and what is mapped is not nothing in every batch.

    A gradient of zeros from a call that had rows is a gradient; one from calls without any row (an expert that no token
    is sent to) is none. Of a weight that no module is called for (`F.linear(x, layer.weight)`) the gradient tells. A
    slice of a stack gets a gradient with the others: it must have been read, or its gradient not be all zeros.
    """

    def __init__(self, layers: Mapping[str, Layer]) -> None:
        self._layers = layers
        self._with_gradient: set[str] = set()
        self._not_zero: set[str] = set()  # slices
        self._called: dict[bool, set[str]] = {True: set(), False: set()}  # with rows, without

    def gradient(self, name: str, gradient: Tensor) -> None:
        """One has arrived."""
        self._with_gradient.add(name)
        if self._layers[name].stack is not None and name not in self._not_zero and bool(gradient.any()):
            self._not_zero.add(name)

    def call(self, name: str, has_rows: bool) -> None:
        """A module that reads the layer was called."""
        self._called[has_rows].add(name)

    def reached(self) -> dict[str, bool]:
        """Whether each layer is."""
        return {name: self._is_reached(name, layer) for name, layer in self._layers.items()}

    def _is_reached(self, name: str, layer: Layer) -> bool:
        missed = name in self._called[False] if layer.stack is None else name not in self._not_zero
        return name in self._with_gradient and (not missed or name in self._called[True])

    def check(self, excused: Collection[str] = ()) -> None:
        """Raises ValueError with the first layer that no batch reaches, but for the excused."""
        for name, reached in self.reached().items():
            if not reached and name not in excused:
                raise ValueError(
                    f"no calibration batch reaches {name!r}: the loss gives it no gradient; give batches that do, "
                    "leave it out in the adapter's prunable(), or use a pruner without gradients"
                )


@contextmanager
def calls_seen(layers: Mapping[str, Layer], tell: Callable[[str, bool], None]) -> Iterator[None]:
    """`tell(name, whether it got rows)` when a module that reads a layer is called; each of the two once a pass."""
    told: set[tuple[str, bool]] = set()

    def seen(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = [item for item in (*args, *kwargs.values()) if isinstance(item, Tensor)]
        call = name, not tensors or any(tensor.numel() for tensor in tensors)
        if call not in told:
            told.add(call)
            tell(*call)

    slices = [layer for layer in layers.values() if layer.stack is not None]
    with ExitStack() as undo:
        undo.enter_context(SlicesWatch(slices, lambda layer, x: seen(layer.name, (x,), {})).watching())
        for name, layer in layers.items():
            for reader in layer.readers if layer.stack is None else ():
                hook = lambda module, args, kwargs, name=name: seen(name, args, kwargs)  # noqa: E731
                undo.callback(reader.module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield
