"""Names of the papers' released files -> names of our parameters.

Each map takes a released state dict and returns what the model's `load` needs, no more: buffers that count positions
are dropped, and a weight that the released code ties, and so do we, has no second entry.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

XVLM_POSITIONS = "vision_encoder.embeddings.position_embedding.weight"
VISION_POSITIONS = BLIP_POSITIONS = "vision_model.embeddings.position_embedding"
_XVLM_VISION = {
    "vision_encoder.class_embedding": "vision_encoder.embeddings.class_embedding",
    "vision_encoder.patch_embed.weight": "vision_encoder.embeddings.patch_embedding.weight",
    "vision_encoder.pos_embed.weight": XVLM_POSITIONS,
}
_BLIP_VISION = (
    (r"^visual_encoder(_m)?\.", r"vision_model\1."),
    (r"\.blocks\.(\d+)\.attn\.qkv\.", r".encoder.layers.\1.self_attn.qkv."),
    (r"\.blocks\.(\d+)\.attn\.proj\.", r".encoder.layers.\1.self_attn.projection."),
    (r"\.blocks\.(\d+)\.norm([12])\.", r".encoder.layers.\1.layer_norm\2."),
    (r"\.blocks\.(\d+)\.mlp\.", r".encoder.layers.\1.mlp."),
    (r"^(vision_model(?:_m)?)\.norm\.", r"\1.post_layernorm."),
    (r"\.patch_embed\.proj\.", ".embeddings.patch_embedding."),
    (r"\.pos_embed$", ".embeddings.position_embedding"),
    (r"\.cls_token$", ".embeddings.class_embedding"),
)
_DINO_VISION = (
    (r"^(module\.|backbone\.|vit\.|encoder\.)+", ""),  # wrappers of DINO's code and of transformers 4
    (r"^(blocks|layers?)\.(\d+)\.", r"encoder.layers.\2."),
    (r"\.attn\.qkv\.", ".self_attn.qkv."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
    (r"\.attention\.attention\.(query|key|value)\.", lambda m: f".self_attn.{m[1][0]}_proj."),
    (r"\.attention\.([qkv])_proj\.", r".self_attn.\1_proj."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".self_attn.projection."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(\.layers\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.(norm1|layernorm_before)\.", ".layer_norm1."),
    (r"\.(norm2|layernorm_after)\.", ".layer_norm2."),
    (r"^(norm|layernorm)\.", "post_layernorm."),
    (r"^(patch_embed\.proj|embeddings\.patch_embeddings\.projection)\.", "embeddings.patch_embedding."),
    (r"^(pos_embed|embeddings\.position_embeddings)$", "embeddings.position_embedding"),
    (r"^(cls_token|embeddings\.cls_token)$", "embeddings.class_embedding"),
)
_DINO_DROPPED = ("head.", "pooler.")  # of self-distillation, and of the hub's file
HEAD = ".cls.predictions."
NOBODY = -100


def xvlm_key_map(released: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict of the released X-VLM (CLIP) code, as MULTIFLOW releases it.

    ValueError if its word decoder is not the word embeddings, which no file from before fine-tuning shows.
    """
    state = {_XVLM_VISION.get(name, name): tensor for name, tensor in released.items()}
    _tie_words(state, "text_encoder", "text_encoder.bert")
    return {name: tensor for name, tensor in state.items() if not name.endswith("position_ids")}


def blip_name(name: str) -> str:
    """A released BLIP parameter's name -> ours."""
    if name.startswith("visual_encoder"):
        for pattern, ours in _BLIP_VISION:
            name = re.sub(pattern, ours, name)
    return {"ptr_queue": "queue_ptr"}.get(name, name)


def blip_key_map(released: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict of the released BLIP code: the pre-trained model, or the retrieval model, which has no decoder.

    ValueError if its decoder does not share with its encoder what a pre-trained model shares.
    """
    state = {blip_name(name): tensor for name, tensor in released.items() if not name.endswith("position_ids")}
    _tie_words(state, "text_decoder", "text_decoder.bert")
    for name in [n for n in state if n.startswith("text_decoder.bert.") and ".attention." not in n]:
        shared = state.get("text_encoder." + name.removeprefix("text_decoder.bert."))
        if shared is None or not torch.equal(state.pop(name), shared):
            raise ValueError(f"its {name} is not the encoder's")
    if "image_queue" in state and "idx_queue" not in state:
        state["idx_queue"] = torch.full((1, state["image_queue"].shape[1]), NOBODY)
    return state


def nlvr_key_map(released: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict of the released BLIP code's NLVR2 model, fine-tuned: `self0`, `self1`, `dense0`, `dense1` as here.

    Source of the names: `models/blip_nlvr.py` and `models/nlvr_encoder.py` of salesforce/BLIP.
    """
    return {blip_name(name): tensor for name, tensor in released.items() if not name.endswith("position_ids")}


def dino_name(name: str) -> str:
    """A parameter's name in DINO's release, in transformers 4 or in transformers 5 -> ours; qkv stays in one."""
    for pattern, ours in _DINO_VISION:
        name = re.sub(pattern, ours, name)
    return name if name.startswith("classifier.") else f"vision_model.{name}"


def dino_key_map(released: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict of DINO's released backbone (`dino_vitbase16_pretrain.pth`), or of transformers' ViT.

    The released file's fused query, key and value become three weights; the projection head is dropped.
    """
    state = {}
    for released_name, tensor in released.items():
        name = dino_name(released_name)
        if name.removeprefix("vision_model.").startswith(_DINO_DROPPED):
            continue
        if ".qkv." in name:
            parts = zip("qkv", tensor.chunk(3), strict=True)
            state |= {name.replace(".qkv.", f".{letter}_proj."): part for letter, part in parts}
        else:
            state[name] = tensor
    return state


def _tie_words(state: dict[str, Tensor], tower: str, bert: str) -> None:
    """Drops the word decoder's weight, which must be the word embeddings, and renames its bias."""
    weight, bias = state.pop(f"{tower}{HEAD}decoder.weight", None), state.pop(f"{tower}{HEAD}decoder.bias", None)
    words = state.get(f"{bert}.embeddings.word_embeddings.weight")
    if weight is not None and words is not None and not torch.equal(weight, words):
        raise ValueError("its word decoder is not the word embeddings")
    if bias is not None:
        state[f"{tower}{HEAD}bias"] = bias
