"""An XVLM with random weights, and batches for it: the paper's, one as wide, one as deep, a tiny one."""

from __future__ import annotations

import torch

from vlp_bench.batch import Batch
from vlp_bench.models.xvlm.model import XVLM
from vlp_bench.models.xvlm.towers import XVLMConfig

SIZES = {
    "tiny": XVLMConfig(
        image_size=64,
        vision_width=192,
        vision_layers=4,
        vision_heads=4,
        local_attn_depth=1,
        text_width=192,
        text_layers=4,
        fusion_layers=2,
        text_heads=4,
    ),
    "small": XVLMConfig(vision_layers=3, local_attn_depth=1, text_layers=4, fusion_layers=2),
    "narrow": XVLMConfig(
        image_size=112,
        vision_width=384,
        vision_heads=6,
        vision_layers=3,
        local_attn_depth=1,
        text_width=384,
        text_heads=6,
        text_layers=4,
        fusion_layers=2,
    ),
    "deep": XVLMConfig(image_size=64, vision_width=96, vision_heads=4, text_width=96, text_heads=4),
    "paper": XVLMConfig(),
}
TOKENS, MASKED = 30, 5
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def xvlm(size: str) -> XVLM:
    """The model in evaluation mode, from a fixed seed."""
    torch.manual_seed(0)
    return XVLM(SIZES[size]).eval().to(DEVICE)


def pairs(size: str, rows: int, batches: int) -> list[list[Batch]]:
    """Batches of two parts, `rows` captions of whole images and as many of regions."""
    return [[batch(size, rows, 2 * i), batch(size, rows, 2 * i + 1, region=True)] for i in range(batches)]


def batch(size: str, rows: int, seed: int, *, region: bool = False) -> Batch:
    """`rows` captions of 10 to 30 words with as many images, or half as many for regions."""
    config, g = SIZES[size], torch.Generator().manual_seed(seed)
    patches = (config.image_size // config.patch_size) ** 2
    images = max(1, rows // 2) if region else rows
    ids = torch.randint(1000, config.vocab_size, (rows, TOKENS), generator=g)
    lengths = torch.randint(10, TOKENS + 1, (rows, 1), generator=g)
    content = Batch(
        images=torch.randn(images, 3, config.image_size, config.image_size, generator=g),
        text_ids=ids,
        text_atts=(torch.arange(TOKENS) < lengths).long(),
        text_ids_masked=ids,
        masked_pos=torch.randint(1, 10, (rows, MASKED), generator=g),
        masked_ids=torch.randint(1000, config.vocab_size, (rows, MASKED), generator=g),
        idx=torch.arange(rows),
    )
    if region:
        content.idx_to_group_img = torch.arange(rows) % images
        atts = (torch.rand(rows, 1 + patches, generator=g) < 0.4).long()
        content.image_atts = atts.index_fill(1, torch.tensor([0]), 1)
        content.target_bbox = torch.rand(rows, 4, generator=g) / 2 + 0.1
        content.is_image = torch.zeros(rows, dtype=torch.long)
    return content.to(DEVICE)
