"""How likely a text is to a language model: log-likelihoods of next words, for decoders and encoder-decoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from vlp_bench.models.foreign.losses import IGNORED, speaks


def reads_on(model: PreTrainedModel) -> bool:
    """Whether it gives the likelihood of a text's next words: it has a head of words and needs no image."""
    takes = signature(model.forward).parameters
    alone = "pixel_values" not in takes or takes["pixel_values"].default is not Parameter.empty
    masked = type(model).__name__.endswith("ForMaskedLM")
    return speaks(model) and alone and "input_ids" in takes and not masked


@dataclass(frozen=True)
class Told:
    """Ids that are read, and ids whose likelihood after them is asked; neither is empty."""

    read: tuple[int, ...]
    said: tuple[int, ...]

    @property
    def seen(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What a model is shown: the last id only has a likelihood."""
        return self.read, self.said[:-1]


@torch.inference_mode()
def log_likelihoods(model: PreTrainedModel, told: Sequence[Told]) -> list[Tensor]:
    """For each, (t,) float32: the natural logarithm of the likelihood of each id that is said.

    A decoder reads both in one row; of an encoder-decoder the encoder reads the one, the decoder says the other. Rows
    of one batch are padded on the right, where nothing looks; what shows the model the same is computed once.
    """
    shown = {own.seen: own for own in told}
    found = _of_both if getattr(model.config, "is_encoder_decoder", False) else _of_decoder
    logits = dict(zip(shown, found(model, list(shown.values())), strict=True))
    return [_picked(logits[own.seen], own.said) for own in told]


def _of_decoder(model: PreTrainedModel, told: Sequence[Told]) -> list[Tensor]:
    """(t, words) for each: logits of what is said."""
    ids, mask = _padded([own.read + own.said[:-1] for own in told], model.device)
    columns = [range(len(own.read) - 1, len(own.read) - 1 + len(own.said)) for own in told]
    wanted = sorted({column for own in columns for column in own})
    place = {column: n for n, column in enumerate(wanted)}
    kept = torch.tensor(wanted, device=model.device)
    if "logits_to_keep" in signature(model.forward).parameters:  # those of a long text fill the memory
        logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=kept, use_cache=False).logits
    else:
        logits = model(input_ids=ids, attention_mask=mask).logits[:, kept]
    return [logits[row, place[own[0]] : place[own[-1]] + 1] for row, own in enumerate(columns)]


def _of_both(model: PreTrainedModel, told: Sequence[Told]) -> list[Tensor]:
    ids, mask = _padded([own.read for own in told], model.device)
    labels, said = _padded([own.said for own in told], model.device)
    labels = labels.masked_fill(said == 0, IGNORED)  # the model puts its own first token before them
    logits = model(input_ids=ids, attention_mask=mask, labels=labels).logits
    return [logits[row, : len(own.said)] for row, own in enumerate(told)]


def _padded(rows: Sequence[tuple[int, ...]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask (b, t), int64."""
    tensors = [torch.tensor(row) for row in rows]
    ids = pad_sequence(tensors, batch_first=True)
    mask = pad_sequence([torch.ones_like(row) for row in tensors], batch_first=True)
    return ids.to(device), mask.to(device)


def _picked(logits: Tensor, said: Sequence[int]) -> Tensor:
    """(t, words) logits -> (t,) log-likelihoods of the ids said, on the processor."""
    wanted = torch.tensor(said, device=logits.device)
    return -F.cross_entropy(logits.float(), wanted, reduction="none").cpu()


def longest(model: PreTrainedModel) -> int | None:
    """How many tokens it has positions for; None where there is no end to them (T5, XLNet's -1)."""
    text: Any = model.config.get_text_config()
    places = getattr(text, "max_position_embeddings", None)
    return places if places is not None and places > 0 else None
