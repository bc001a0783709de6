"""XVLM: a general batch and a region batch."""

from tests.models.tiny import words
from vlp_bench.batch import Batch
from vlp_bench.models.xvlm.model import XVLM
from vlp_bench.models.xvlm.towers import XVLMConfig

CONFIG = XVLMConfig(
    image_size=16, patch_size=8, vision_width=16, vision_layers=2, vision_heads=2, local_attn_depth=1, text_width=16,
    text_layers=2, fusion_layers=1, text_heads=2, vocab_size=30, embed_dim=8, max_positions=16, dropout=0.0,
)  # fmt: skip


def model(attention: str = "sdpa") -> XVLM:
    return XVLM(CONFIG, attention=attention)


def batches() -> list[Batch]:
    return [words(seed=0, masked=True), words(seed=1, masked=True, patches=4)]
