"""A BLIP that starts from an XVLM of the same width: every tensor the two have in common, laid out as BLIP has it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vlp_bench.models.blip.model import BLIP
from vlp_bench.models.xvlm.model import XVLM

SPECIAL = 2
"""[DEC] and [ENC], the tokens a BLIP has beyond an XVLM's vocabulary."""


@torch.no_grad()
def blip_from_xvlm(model: BLIP, source: XVLM, cls_id: int) -> BLIP:
    """Fill `model` from `source` and return it.

    Vision, words, text layers, cross-attention (where the source's layer has one), projections and the word head are
    copied; the decoder's self-attention starts as the encoder's, [DEC] and [ENC] as [CLS] (`cls_id`). The
    matching head and the cross-attention of the source's plain text layers stay as initialised; the momentum copies
    start over.

    Raises:
        ValueError: the two differ in width, depth, vocabulary or image size.
    """
    _check(model, source)
    _fill_vision(model, source)
    _fill_words(model.text_encoder.embeddings, source, cls_id)
    layers = source.text_encoder.bert.encoder.layer
    for mine, theirs in zip(model.text_encoder.encoder.layer, layers, strict=True):
        mine.load_state_dict(theirs.state_dict(), strict=False)
    if model.text_decoder is not None:
        for mine, theirs in zip(model.text_decoder.bert.encoder.layer, layers, strict=True):
            mine.attention.load_state_dict(theirs.attention.state_dict())  # pyright: ignore
        ours, head = model.text_decoder.cls.predictions, source.text_encoder.cls.predictions
        ours.transform.load_state_dict(head.transform.state_dict())
        ours.bias.zero_()
        ours.bias[: len(head.bias)] = head.bias
    for name in ("vision_proj", "text_proj"):
        model.get_submodule(name).load_state_dict(source.get_submodule(name).state_dict())
    model.temp.copy_(source.temp)
    model.restart_momentum()
    return model


def _check(model: BLIP, source: XVLM) -> None:
    for name in ("image_size", "patch_size", "stem", "vision_width", "vision_layers", "text_layers", "embed_dim"):
        mine, theirs = getattr(model.config, name), getattr(source.config, name)
        if mine != theirs:
            raise ValueError(f"a BLIP with {name}={mine} cannot start from an XVLM with {name}={theirs}")
    words = source.config.vocab_size + SPECIAL
    if model.config.vocab_size != words:
        raise ValueError(f"a BLIP started from this XVLM has {words} words, got vocab_size={model.config.vocab_size}")


def _fill_vision(model: BLIP, source: XVLM) -> None:
    mine, theirs = model.vision_model, source.vision_encoder
    mine.embeddings.class_embedding.copy_(theirs.embeddings.class_embedding.view(1, 1, -1))
    mine.embeddings.position_embedding.copy_(theirs.embeddings.position_embedding.weight[None])
    mine.embeddings.patch_embedding.load_state_dict(theirs.embeddings.patch_embedding.state_dict())
    if mine.embeddings.norm.state_dict():
        mine.embeddings.norm.load_state_dict(theirs.pre_layrnorm.state_dict())
    for layer, other in zip(mine.encoder.layers, theirs.encoder.layers, strict=True):
        layer.load_state_dict(_fused(other))
    mine.post_layernorm.load_state_dict(theirs.post_layernorm.state_dict())


def _fused(layer: nn.Module) -> dict[str, Tensor]:
    """CLIP's layer under BLIP's names: query, key and value in one."""
    state = layer.state_dict()
    parts = [name for name in state if name.startswith("self_attn.")]
    given = {name: state.pop(name) for name in parts}
    for kind in ("weight", "bias"):
        state[f"self_attn.qkv.{kind}"] = torch.cat([given[f"self_attn.{x}_proj.{kind}"] for x in "qkv"])
        state[f"self_attn.projection.{kind}"] = given[f"self_attn.out_proj.{kind}"]
    return state


def _fill_words(mine: nn.Module, source: XVLM, cls_id: int) -> None:
    theirs = source.text_encoder.bert.embeddings
    words = theirs.word_embeddings.weight
    mine.word_embeddings.weight.copy_(torch.cat([words, words[[cls_id] * SPECIAL]]))  # pyright: ignore
    table = theirs.position_embeddings.weight + theirs.token_type_embeddings.weight[0]
    mine.position_embeddings.weight[: len(table)] = table  # pyright: ignore
    mine.LayerNorm.load_state_dict(theirs.LayerNorm.state_dict())  # pyright: ignore
