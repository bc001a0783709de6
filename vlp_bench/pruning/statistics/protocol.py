"""What can be asked of calibration data: one frozen dataclass for each question; equal options are one question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple
from typing import Any, ClassVar, Protocol, TypeVar

from torch import Tensor

from vlp_bench.pruning.layers import Layer

Sums = dict[str, Tensor]  # by layer
T_co = TypeVar("T_co", covariant=True)


class Statistic(Protocol[T_co]):
    """Anything hashable that is computed from a `Calibration`, which remembers it."""

    def of(self, calibration: Any) -> T_co:
        """The answer, computed."""
        ...


class LayerStatistic:
    """One tensor for each layer, added up over the batches by a pass that several statistics may share.

    Subclasses are frozen dataclasses. The two kinds are `InputStatistic` (what reaches a layer in a forward pass) and
    `GradientStatistic` (its gradient); both say what a batch adds and how large it is, and that is all.

    Attributes:
        on_disk: whether a folder of statistics and a file of scores keep it.
        along: statistics that the same pass gives at no cost; they are kept in memory.
    """

    on_disk: ClassVar[bool] = True
    along: ClassVar[tuple[LayerStatistic, ...]] = ()

    @property
    def name(self) -> str:
        """Class and options: its key in files."""
        options: tuple[Any, ...] = astuple(self)  # pyright: ignore[reportArgumentType]
        return "-".join([type(self).__name__, *map(str, options)])

    def of(self, calibration: Any) -> Sums:
        """Its tensors by layer."""
        return calibration.collect(self)[0]

    def shape(self, layer: Layer) -> tuple[int, ...]:
        """Of the layer's tensor: that of the matrix (d_out, d_in)."""
        return tuple(layer.matrix.shape)

    def start(self) -> Sums:
        """The sums before the first batch."""
        return {}

    def add(self, sums: Sums, name: str, term: Tensor) -> None:
        """Adds to a layer's sum in place; takes the first term over."""
        sums[name] = sums[name].add_(term) if name in sums else term

    def result(self, layers: Mapping[str, Layer], sums: Sums, counts: Mapping[str, int]) -> Sums:
        """The mean of what was added, in the orientation of `Layer.matrix`.

        Args:
            layers: all of them have a sum.
            sums: what `add` made; may be changed.
            counts: for each layer what its sum is divided by.
        """
        return {name: layer.from_stored(sums[name].div_(counts[name])) for name, layer in layers.items()}
