"""What a model of transformers is asked for a loss: labels where a batch has none."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vlp_bench.models.blip2.model import halves
from vlp_bench.models.foreign.tree import answers_apart

IGNORED = -100
PLACEHOLDERS = ("image_token_id", "image_token_index", "video_token_id", "video_token_index", "audio_token_id")


def with_labels(model: PreTrainedModel, batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """The batch with what makes the model return a loss, where it can.

    Labels as they are; else the loss between images and texts (CLIP); else, of a language model, the text's own words.
    """
    takes = signature(model.forward).parameters
    if "labels" in batch:
        return batch
    if "return_loss" in takes:
        return {**batch, "return_loss": True}
    if "labels" in takes and "input_ids" in batch and speaks(model):
        return {**batch, "labels": own_words(model, batch)}
    return batch


def no_loss(model: PreTrainedModel, batch: Mapping[str, Any]) -> ValueError:
    """The error for a model that returned no loss."""
    lacks = "labels" in signature(model.forward).parameters and "labels" not in batch
    needed = "labels are needed" if lacks else "it has no head with a loss"
    return ValueError(
        f"{type(model).__name__} has no loss for a batch of {', '.join(batch)}: {needed}; a pruner that reads weights "
        "or activations needs no loss (omp, lamp, wanda, multiflow; vlp-bench list pruners)"
    )


def speaks(model: PreTrainedModel) -> bool:
    """Whether it, or a model in it, gives logits of words."""
    nested = (module for module in model.modules() if isinstance(module, PreTrainedModel))
    return any(own.get_output_embeddings() is not None for own in nested)


def as_answer(ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """What the decoder of a model that answers apart is given: its words (b, t), their mask, and labels."""
    labels = ids.masked_fill(mask == 0, IGNORED)
    return {"decoder_input_ids": ids, "decoder_attention_mask": mask, "labels": labels}


def own_words(model: PreTrainedModel, batch: Mapping[str, Any]) -> Tensor:
    """(b, t) int64: the ids of the words; -100 for padding and for what stands for pieces of an image.

    Nor is the first word behind padding one that a causal model would say: it has nothing to say it from.
    """
    ids: Tensor = batch["input_ids"]
    mask = batch.get("attention_mask")
    ignored = ids < 0 if mask is None else mask == 0
    if not (getattr(model.config, "is_encoder_decoder", False) or type(model).__name__.endswith("ForMaskedLM")):
        ignored[:, 1:] |= ignored[:, :-1].clone()
    for name in PLACEHOLDERS:
        if isinstance(token := getattr(model.config, name, None), int):
            ignored = ignored | (ids == token)
    return ids.masked_fill(ignored, IGNORED)


def with_targets(model: PreTrainedModel, batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """A batch of a model with encoder and decoder, with what the decoder is to say.

    A text alone is halved: the encoder reads the first half, the decoder says the rest. Of a model that answers
    apart the decoder says what the encoder reads.
    """
    told = {"labels", "decoder_input_ids"} & batch.keys()
    if answers_apart(model) and "input_ids" in batch and not told:
        ids: Tensor = batch["input_ids"]
        return {**batch, **as_answer(ids, batch.get("attention_mask", torch.ones_like(ids)))}
    if not getattr(model.config, "is_encoder_decoder", False) or "input_ids" not in batch or told:
        return batch
    ids = batch["input_ids"]
    mask = batch.get("attention_mask")
    mask = (ids >= 0).long() if mask is None else mask
    if "pixel_values" in batch or int(mask.sum(1).min()) < 2:
        return {**batch, "labels": own_words(model, batch)}
    (seen, seen_mask), (said, said_mask) = halves(ids, mask)
    if "labels" in signature(model.forward).parameters:
        target: dict[str, Tensor] = {"labels": said.masked_fill(said_mask == 0, IGNORED)}
    else:
        target = {"decoder_input_ids": said, "decoder_attention_mask": said_mask}
    return {**batch, "input_ids": seen, "attention_mask": seen_mask, **target}
