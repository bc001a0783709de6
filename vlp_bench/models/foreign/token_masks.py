"""Which tokens of a batch count at the input of a layer: padding never does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

IGNORED = -100
TIME_FIRST = {"fsmt": ".layers.", "xlnet": ".layer.", "longformer": ".self.", "led": ".longformer_self_attn."}
"""Kinds of models with layers that read (tokens, rows, width) -> part of the paths of these."""
FILLING = ("longformer", "led", "reformer", "big_bird", "bigbird_pegasus", "pegasus_x")
"""Kinds of models that fill up texts on the right themselves, to a multiple of what they attend to at a time."""
SOUNDS = ("feature_attention_mask", "input_features_mask", "audio_attention_mask")
"""What models that read sounds beside texts call the mask of the sounds."""


def of_decoder(batch: Mapping[str, Any]) -> Tensor | None:
    """(b, t) bool: the decoder's tokens that are no padding, by their mask or by the labels they are shifted from."""
    if (mask := batch.get("decoder_attention_mask")) is not None:
        return mask.bool()
    labels = batch.get("labels")
    return None if labels is None else labels != IGNORED


def of_text(batch: Mapping[str, Any]) -> Tensor | None:
    """(b, t) bool: the tokens that are no padding. ValueError for a mask of another form."""
    mask = batch.get("attention_mask")
    if mask is None or mask.ndim == 2:
        return None if mask is None else mask.bool()
    raise ValueError(f"attention_mask has shape {tuple(mask.shape)}: (rows, tokens) is needed to know what padding is")


def of_patches(batch: Mapping[str, Any], patch: int | None) -> Tensor | None:
    """(images, patches) bool: the patches that are no padding, as the vision tower is given them; None: all are.

    `pixel_attention_mask` is one entry a patch (SigLIP2), or one a pixel of every image of every row (SmolVLM); images
    that are all zero fill up a row and are left out, as the models do. Of `flattened_patches` (Pix2Struct) the
    `attention_mask` is the patches'.
    """
    if "flattened_patches" in batch:
        return of_text(batch)
    mask = batch.get("pixel_attention_mask")
    if mask is None or mask.ndim == 2:
        return None if mask is None else mask.bool()
    if mask.ndim != 4 or not patch:
        return None
    real = (batch["pixel_values"] != 0).flatten(2).any(-1)
    cut = mask[real].unfold(1, patch, patch).unfold(2, patch, patch)
    return (cut.sum((-1, -2)) > 0).flatten(1)


def of_sounds(batch: Mapping[str, Any]) -> Tensor | None:
    """(b, t) bool: the frames that are no padding. Beside texts (CLAP) the `attention_mask` is the words'."""
    if "input_ids" not in batch:
        return of_text(batch)
    own = next((batch[key] for key in SOUNDS if batch.get(key) is not None), None)
    return None if own is None else own.bool()


def of_queries(mask: Tensor | None, tokens: int, queries: int) -> Tensor | None:
    """(b, tokens) bool at a layer of a Q-Former that reads queries, a text, or queries and a text behind them.

    `mask` is the text's (b, t); None where there is none, or queries are read alone.

    Raises:
        ValueError: there are as many queries as words, and it can't be known which are read.
    """
    if mask is None or mask.all() or tokens == queries != mask.shape[1]:
        return None
    if tokens == queries + mask.shape[1]:
        return torch.cat([mask.new_ones(len(mask), queries), mask], dim=1).bool()
    if tokens == queries:
        raise ValueError(
            f"a text of {tokens} tokens and {queries} queries can't be told apart: give another max_length"
        )
    return mask.bool()


def after_images(mask: Tensor | None, tokens: int) -> Tensor | None:
    """(b, tokens) bool for layers that read the tokens of an image, all of which count, and then the text's (b, t)."""
    if mask is None or tokens <= mask.shape[1]:
        return mask
    return torch.cat([mask.new_ones(len(mask), tokens - mask.shape[1]), mask], dim=1)


def before_images(mask: Tensor | None, tokens: int) -> Tensor | None:
    """(b, tokens) bool for layers that read the text's tokens (b, t), and then an image's, all of which count."""
    if mask is None or tokens <= mask.shape[1]:
        return mask
    return torch.cat([mask, mask.new_ones(len(mask), tokens - mask.shape[1])], dim=1)


def is_full(batch: Mapping[str, Any]) -> bool:
    """Whether no pixel fills up an image (ViLT's are of many shapes)."""
    mask = batch.get("pixel_mask")
    return mask is None or bool(mask.all())


def filled(mask: Tensor | None, length: int, like: Tensor) -> Tensor | None:
    """(b, length) bool of (b, t): tokens that the model itself has put behind a text don't count.

    `like` is (b, t), for the mask of a batch without one.
    """
    if length <= like.shape[1]:
        return mask
    mask = torch.ones_like(like, dtype=torch.bool) if mask is None else mask
    return torch.cat([mask, mask.new_zeros(len(mask), length - mask.shape[1])], dim=1)


def fitted(mask: Tensor | None, tokens: int, shape: torch.Size | None, name: str) -> Tensor | None:
    """A mask (b, t) at an input of `tokens` tokens a row; `shape` is the input's where it is known.

    (b, t, d) takes it as it is, (b·t, d) in one column, (b, t, g, d) and (b, g, t, d) once for every g; a pooled
    input, (b, d) or (b, 1, d), has nothing to mask.

    Raises:
        ValueError: the input is of another form, and there is padding.
    """
    if mask is None or mask.all():
        return None
    rows = None if shape is None else shape[0] if len(shape) > 1 else 1
    if tokens == mask.shape[1] and rows in (None, len(mask)):
        return mask
    if tokens == 1 and rows == mask.numel():
        return mask.reshape(-1, 1)
    if tokens == 1 and rows in (None, len(mask)):
        return None
    axes = shape[1:3] if shape is not None and len(shape) == 4 and rows == len(mask) else ()
    if axes and axes[0] != axes[1] and mask.shape[1] in axes:
        once = mask[:, :, None] if axes[0] == mask.shape[1] else mask[:, None]
        return once.expand(-1, *axes).reshape(len(mask), -1)
    raise ValueError(
        f"{name!r} reads {tokens} tokens in {rows or 'its'} rows, and the batch's mask is {tuple(mask.shape)}: which "
        "are padding can't be known; give batches without padding (batch_size=1) or leave it out"
    )
