"""XVLM's and BLIP's passes over pairs, by our models and by plain transformers modules of their shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    BlipTextConfig,
    BlipVisionConfig,
    BlipVisionModel,
    CLIPVisionConfig,
    CLIPVisionModel,
)
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel, BlipTextModel

from support.models import DEVICE, SIZES
from vlp_bench.batch import Batch
from vlp_bench.models.blip.model import BLIP, COPIES
from vlp_bench.models.blip.towers import BLIPConfig
from vlp_bench.models.xvlm.model import XVLM
from vlp_bench.models.xvlm.towers import XVLMConfig

Pass = Callable[[Batch], Tensor]
"""Batch -> what its last layer says; its mean square is the loss of a training step."""


def ours(name: str, size: str, pixels: int) -> tuple[nn.Module, Pass]:
    """Our model, and its pass over the pairs of a batch, without momentum copies and negatives."""
    torch.manual_seed(0)
    if name == "xvlm":
        xvlm = XVLM(replace(SIZES[size], image_size=pixels)).to(DEVICE)

        def fused(b: Any) -> Tensor:
            return xvlm.fuse(xvlm.encode_text(b.text_ids, b.text_atts), b.text_atts, xvlm.encode_image(b.images))

        return xvlm, fused
    blip = BLIP(_blip(size, pixels)).to(DEVICE)
    for name in COPIES:
        delattr(blip, name)

    def both(b: Any) -> Tensor:
        images = blip.encode_image(b.images)
        fused, words = blip.fuse(b.text_ids, b.text_atts, images), blip.predict_words(b.text_ids, b.text_atts, images)
        return torch.cat([fused.flatten(), words.flatten()])

    return blip, both


def plain(name: str, size: str, pixels: int) -> tuple[nn.Module, Pass]:
    """The same passes by transformers' own modules, as their constructors give them."""
    torch.manual_seed(0)
    return _plain_xvlm(SIZES[size], pixels) if name == "xvlm" else _plain_blip(_blip(size, pixels))


def _blip(size: str, pixels: int) -> BLIPConfig:
    x = SIZES[size]
    return BLIPConfig(image_size=pixels, vision_layers=x.vision_layers, text_layers=x.text_layers)


def _plain_xvlm(c: XVLMConfig, pixels: int) -> tuple[nn.Module, Pass]:
    vision = CLIPVisionConfig(image_size=pixels, patch_size=16, num_hidden_layers=c.vision_layers)
    vision.hidden_size, vision.intermediate_size, vision.num_attention_heads = 768, 3072, 12
    text = BertConfig(num_hidden_layers=c.first_fusion_layer, use_cache=False)
    fusion = BertConfig(num_hidden_layers=c.fusion_layers, is_decoder=True, add_cross_attention=True, use_cache=False)
    net = nn.ModuleDict(
        {
            "vision": CLIPVisionModel(vision),
            "text": BertModel(text, add_pooling_layer=False),
            "fusion": BertModel(fusion, add_pooling_layer=False),
        }
    ).to(DEVICE)

    def run(b: Batch) -> Tensor:
        images = net["vision"](pixel_values=b.images).last_hidden_state
        words = net["text"](input_ids=b.text_ids, attention_mask=b.text_atts).last_hidden_state
        fused = net["fusion"](inputs_embeds=words, attention_mask=b.text_atts, encoder_hidden_states=images)
        return fused.last_hidden_state

    return net, run


def _plain_blip(c: BLIPConfig) -> tuple[nn.Module, Pass]:
    sizes: dict[str, Any] = {"image_size": c.image_size, "patch_size": 16, "num_hidden_layers": c.vision_layers}
    vision = BlipVisionConfig(**sizes, initializer_range=0.02)  # its own 1e-10 ends in numbers too small to be quick
    common: dict[str, Any] = {"num_hidden_layers": c.text_layers, "num_attention_heads": 12, "hidden_size": 768}
    common |= {"hidden_dropout_prob": c.dropout, "attention_probs_dropout_prob": c.dropout}
    text = BlipTextConfig(**common, encoder_hidden_size=768, is_decoder=True, use_cache=False)
    net: Any = nn.ModuleDict(
        {
            "vision": BlipVisionModel(vision),
            "encoder": BlipTextModel(text, add_pooling_layer=False),
            "decoder": BlipTextLMHeadModel(text),
        }
    ).to(DEVICE)
    _share(net["encoder"], net["decoder"].bert)
    net["decoder"].cls.predictions.decoder.weight = net["encoder"].embeddings.word_embeddings.weight

    def run(b: Batch) -> Tensor:
        images = net["vision"](pixel_values=b.images).last_hidden_state
        read = {"input_ids": b.text_ids, "attention_mask": b.text_atts, "encoder_hidden_states": images}
        fused = net["encoder"](**read, is_decoder=False).last_hidden_state
        return torch.cat([fused.flatten(), net["decoder"](**read).logits.flatten()])

    return net, run


def _share(encoder: nn.Module, decoder: nn.Module) -> None:
    """As MED does: all but self-attention, so that both take a step over as many weights."""
    for name, parameter in list(encoder.named_parameters()):
        if ".attention." not in name:
            path, _, leaf = name.rpartition(".")
            setattr(decoder.get_submodule(path), leaf, parameter)
