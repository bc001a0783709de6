"""What reaches the matrices of stacked experts, which no module is called for: their products are watched instead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vlp_bench.models.stacks import EVERY_TOKEN, SORTED, parameters_of
from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.statistics.unseen import Unseen

Take = Callable[[Layer, Tensor], None]  # gets x (n, d_in) that a layer is about to map
MaskOfExperts = Callable[[str, Tensor], "Tensor | None"]  # (stack, x) -> what counts of the tokens in x
PRODUCTS = {"matmul", "mm", "bmm", "__matmul__"}
SWITCHED = "is_concatenated"  # modules of transformers whose forward has several implementations


class SlicesWatch:
    """Calls `take` with what each matrix of the layers' stacks is multiplied with, in passes inside `watching`.

    A product is known by the place in memory of its second factor. Experts run one after the other meanwhile, whatever
    implementation the model prefers. Where not every token counts, those that do and the others go through the module
    in two calls.

    Args:
        layers: slices of stacks.
        take: gets the layer and x (n, d_in), before the product.
        mask: what counts of the tokens that reach a module of experts, all rows' one after the other; None: everything.
    """

    def __init__(self, layers: Iterable[Layer], take: Take, mask: MaskOfExperts = lambda stack, x: None) -> None:
        self._layers, self._take, self._mask = list(layers), take, mask
        self._counts = True  # whether what passes now is counted

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watches products, and wraps the forward of every module of experts; all is as before afterwards."""
        if not self._layers:
            yield
            return
        by_module: dict[nn.Module, list[Layer]] = {}
        for layer in self._layers:
            for reader in layer.readers:
                by_module.setdefault(reader.module, []).append(layer)
        with ExitStack() as undo:
            for module, own in by_module.items():
                undo.callback(module.__dict__.update, {k: v for k, v in vars(module).items() if k == "forward"})
                undo.callback(module.__dict__.pop, "forward", None)
                module.forward = self._watched(module, own)
            undo.enter_context(_Products(self._layers, self._see))
            yield

    def _see(self, layer: Layer, x: Tensor) -> None:
        if self._counts and len(x):
            self._take(layer, x)

    def _watched(self, module: nn.Module, layers: list[Layer]) -> Callable[..., Any]:
        forward = one_by_one(module)
        stack, experts = parameters_of([layers[0].name])[0], len(layers[0].parameter)

        def watched(*args: Any, **kwargs: Any) -> Any:
            x = args[0] if args else next(iter(kwargs.values()))
            mask = self._mask(stack, x)
            if mask is None or bool(mask.all()):
                return forward(*args, **kwargs)
            mask = _fitting(mask.to(x.device).bool(), x, type(module).__name__, experts)
            if mask is None:
                raise Unseen(
                    [layer.name for layer in layers],
                    f"{type(module).__name__} doesn't tell which of its tokens are padding",
                )
            return self._in_two(forward, mask, args, kwargs)

        return watched

    def _in_two(self, forward: Callable[..., Tensor], mask: Tensor, args: tuple[Any, ...], kwargs: Any) -> Tensor:
        """The output for the tokens that count and for the others, from a call for each."""
        output: Tensor | None = None
        try:
            for counts, own in ((True, mask), (False, ~mask)):
                if own.any():
                    self._counts = counts
                    part = forward(*(_rows(a, own) for a in args), **{k: _rows(a, own) for k, a in kwargs.items()})
                    output = part.new_empty(*mask.shape, *part.shape[1:]) if output is None else output
                    output[own] = part
        finally:
            self._counts = True
        assert output is not None
        return output


def one_by_one(module: nn.Module) -> Callable[..., Any]:
    """The forward of a module of experts that multiplies with one matrix after the other."""
    plain = getattr(type(module).forward, "__wrapped__", None) if hasattr(module, SWITCHED) else None
    return module.forward if plain is None or "forward" in vars(module) else plain.__get__(module)


def _fitting(mask: Tensor, x: Tensor, kind: str, experts: int) -> Tensor | None:
    """The mask in the shape of the tokens of x (..., d) that come to a module of that kind; None: it isn't known."""
    whole = mask.reshape(-1).repeat(experts if kind in EVERY_TOKEN else 1)
    return whole.reshape(x.shape[:-1]) if len(whole) * x.shape[-1] == x.numel() and kind not in SORTED else None


def _rows(value: Any, mask: Tensor) -> Any:
    """What belongs to the masked tokens, of an argument that has an entry for each."""
    return value[mask] if isinstance(value, Tensor) and value.shape[: mask.ndim] == mask.shape else value


class _Products(TorchFunctionMode):
    """Tells of every product whose second factor is a matrix of a stack, or the whole of one."""

    def __init__(self, layers: list[Layer], see: Take) -> None:
        super().__init__()
        self._see = see
        self._slices = {layer.weight.data_ptr(): layer for layer in layers}
        self._stacks: dict[int, list[Layer]] = {}
        for layer in layers:
            self._stacks.setdefault(layer.parameter.data_ptr(), []).append(layer)

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name == "linear" or name in PRODUCTS:
            self._product(name == "linear", *(*args, *(kwargs or {}).values())[:2])
        return func(*args, **(kwargs or {}))

    def _product(self, linear: bool, x: Tensor, w: Tensor) -> None:
        layer = self._slices.get(w.data_ptr()) if w.ndim == 2 else None
        if layer is not None and w.numel() == layer.size:
            _check_orientation(layer, w, linear)
            self._see(layer, x.reshape(-1, x.shape[-1]))
        whole = self._stacks.get(w.data_ptr(), []) if w.ndim == 3 else []
        for layer in whole if whole and w.numel() == whole[0].parameter.numel() else ():
            own = layer.part_of(x)
            _check_orientation(layer, layer.part_of(w), linear)
            self._see(layer, own[own.any(-1)])  # a token that is not sent to an expert comes there as zeros


def _check_orientation(layer: Layer, w: Tensor, linear: bool) -> None:
    """Raises Unseen where the matrix is read the other way round than its module says."""
    stored = layer.weight.stride()
    if stored[0] != stored[1] and ((w.stride() == stored) != linear) != layer.transposed:
        raise Unseen([layer.name], "it is read the other way round than its module's `is_transposed` says")
