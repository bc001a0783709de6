"""DINO."""

from tests.models.tiny import labelled
from vlp_bench.batch import Batch
from vlp_bench.models.dino import DINO, DINOConfig

CONFIG = DINOConfig(image_size=16, patch_size=8, vision_width=16, vision_layers=2, vision_heads=2, classes=5)


def model(attention: str = "sdpa") -> DINO:
    return DINO(CONFIG, attention=attention)


def batches() -> list[Batch]:
    return [labelled(seed=0), labelled(seed=1)]
