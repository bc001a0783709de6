"""CLIP; its texts end with the highest token, where it reads them."""

from dataclasses import replace

from tests.models.tiny import words
from vlp_bench.batch import Batch
from vlp_bench.models.clip import CLIP, CLIPSizes

SIZES = CLIPSizes(
    image_size=16, patch_size=8, vision_width=16, vision_layers=2, vision_heads=2, text_width=16, text_layers=2,
    text_heads=2, vocab_size=32, max_tokens=16, embed_dim=8,
)  # fmt: skip


def model(attention: str = "sdpa") -> CLIP:
    return CLIP(SIZES, attention=attention)


def batches() -> list[Batch]:
    return [_ended(words(seed=0)), _ended(words(seed=1))]


def _ended(batch: Batch) -> Batch:
    last = batch.text_atts.sum(1, keepdim=True) - 1
    return replace(batch, text_ids=batch.text_ids.scatter(1, last, SIZES.vocab_size - 1))
