"""Configurations of models small enough to run in milliseconds."""

from vlp_bench.models.blip.towers import BLIPConfig
from vlp_bench.models.xvlm.model import XVLMConfig

SMALL_XVLM = XVLMConfig(
    image_size=24,
    patch_size=8,
    vision_width=16,
    vision_layers=3,
    vision_heads=2,
    local_attn_depth=2,
    text_width=16,
    text_layers=3,
    fusion_layers=2,
    text_heads=2,
    vocab_size=20,
    embed_dim=8,
    max_positions=12,
    stem="conv",
)

SMALL_BLIP = BLIPConfig(
    image_size=24,
    patch_size=8,
    vision_width=16,
    vision_layers=2,
    vision_heads=2,
    text_width=16,
    text_layers=2,
    text_heads=2,
    vocab_size=22,
    embed_dim=8,
    max_positions=12,
    queue_size=12,
    dec_id=20,
    enc_id=21,
)
