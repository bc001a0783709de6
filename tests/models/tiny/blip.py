"""BLIP, with its decoder."""

from tests.models.tiny import words
from vlp_bench.batch import Batch
from vlp_bench.models.blip.model import BLIP
from vlp_bench.models.blip.towers import BLIPConfig

CONFIG = BLIPConfig(
    image_size=16, patch_size=8, vision_width=16, vision_layers=2, vision_heads=2, text_width=16, text_layers=2,
    text_heads=2, vocab_size=32, embed_dim=8, max_positions=16, queue_size=12, dec_id=30, enc_id=31, dropout=0.0,
)  # fmt: skip


def model(attention: str = "sdpa") -> BLIP:
    return BLIP(CONFIG, attention=attention)


def batches() -> list[Batch]:
    return [words(seed=0), words(seed=1)]
