"""Rows of a batch that several others need, with gradients that repeat."""

from torch import Tensor


def taken(x: Tensor, rows: Tensor) -> Tensor:
    """(n, ...) x[rows], of (b, ...) and (n,) in which a row may stand several times; its gradient repeats bit by bit.

    Indexing's does so on a GPU, where it sorts, and not on a processor, where threads race for a row that stands three
    times; index_select's the other way round.
    """
    return x.index_select(0, rows) if x.device.type == "cpu" else x[rows]
