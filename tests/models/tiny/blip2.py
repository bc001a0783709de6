"""BLIP-2 with FlanT5."""

from tests.models.tiny import words
from vlp_bench.batch import Batch
from vlp_bench.models.blip2.model import BLIP2, BLIP2Sizes

SIZES = BLIP2Sizes(
    image_size=16, patch_size=8, vision_width=16, vision_layers=2, vision_heads=2, vision_inner=32, queries=3,
    query_width=16, query_layers=2, query_heads=2, text_width=16, text_layers=2, text_heads=2, text_inner=32,
    vocab_size=32,
)  # fmt: skip


def model(attention: str = "sdpa") -> BLIP2:
    return BLIP2(SIZES, attention=attention)


def batches() -> list[Batch]:
    return [words(seed=0), words(seed=1)]
