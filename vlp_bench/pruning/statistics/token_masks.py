"""Which tokens count at the input of a layer: the adapter's answer, held to the shape of what is there."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from vlp_bench.pruning.adapter import Adapter, guesses_padding
from vlp_bench.pruning.said_once import warn_once
from vlp_bench.pruning.statistics.around import chosen_tokens
from vlp_bench.pruning.statistics.padding import CURE, doubt, padding_mask

log = logging.getLogger(__name__)


class TokenMasks:
    """Asks an adapter about one part of a batch.

    Args:
        adapter: its `token_mask` is asked.
        model: whom warnings are about.
        part: what the model is called with.
    """

    def __init__(self, adapter: Adapter, model: nn.Module, part: Any) -> None:
        self._adapter, self._model, self._part = adapter, model, part
        self._guesses = guesses_padding(adapter)

    @cached_property
    def rows(self) -> int:
        """Of the part, as the adapter counts them."""
        return self._adapter.rows(self._part)

    def at(self, name: str, x: Tensor) -> Tensor | None:
        """What counts of x (rows, ..., d_in), which reaches the layer of that name; None: everything.

        A mask (rows, tokens) says nothing of x (rows, d_in), which is no token.

        Of these only the chosen ones count, if there is a choice of what the layer reads (see `pruning.tokens`).

        Raises:
            ValueError: the mask doesn't fit.
        """
        mask, own = self._counting(name, x), chosen_tokens(self._adapter, name)
        if own is None or own.numel() * x.shape[-1] != x.numel():  # it reads something else than what was chosen from
            return mask
        return own if mask is None else own & mask.to(own.device).reshape(own.shape)

    def _counting(self, name: str, x: Tensor) -> Tensor | None:
        rows = x.shape[0] if x.ndim > 1 else 1
        tokens = x.numel() // max(1, rows * x.shape[-1])
        mask = self._mask(name, tokens)
        if mask is None or (x.ndim == 2 and mask.ndim == 2 and len(mask) == rows != mask.numel()):
            return None
        if self._guesses:
            return mask if mask.shape == x.shape[:-1] else self._counted_all(f"{name} reads {tuple(x.shape)}")
        return mask if mask.numel() == rows * tokens else self._refuse(name, mask, x)

    def at_experts(self, name: str, x: Tensor) -> Tensor | None:
        """What counts of x (..., d), the tokens of all rows one after the other, which reach stacked experts."""
        tokens = x.numel() // x.shape[-1]
        mask = self._mask(name, tokens // self.rows if self.rows and tokens % self.rows == 0 else tokens)
        fits = mask is None or not self._guesses or tokens % mask.numel() == 0
        return mask if fits else self._counted_all(f"{name} reads {tuple(x.shape)}")

    def _mask(self, name: str, tokens: int) -> Tensor | None:
        return self._guess if self._guesses else self._adapter.token_mask(self._part, name, tokens)

    @cached_property
    def _guess(self) -> Tensor | None:
        """The padding that the batch tells of, unless there is doubt about whose it is."""
        mask = padding_mask(self._part)
        config = getattr(self._model, "config", None)
        reason = mask is not None and doubt(self._part, bool(getattr(config, "is_encoder_decoder", False)))
        return self._counted_all(reason) if reason else mask

    def _counted_all(self, reason: str) -> None:
        said = f"padding counts in some layers, as the attention_mask may not be of their inputs ({reason}): {CURE}"
        warn_once(log, self._model, said, key="padding")

    def _refuse(self, name: str, mask: Tensor, x: Tensor) -> None:
        raise ValueError(
            f"the token mask of {name!r} has shape {tuple(mask.shape)}, its input {tuple(x.shape)}: the adapter's "
            f"token_mask() must give {tuple(x.shape[:-1])} there, or None where everything counts"
        )
