"""Tiny questions and captions for the tests of tasks."""

from typing import Any

import torch

from tests.tasks.conftest import tiny_model
from vlp_bench.data.datasets.captioning import CaptioningData, ShapesCaptions
from vlp_bench.data.datasets.questions import QuestionData, ShapesQuestions
from vlp_bench.data.datasets.retrieval import CalibrationSettings
from vlp_bench.data.shapes.phrases import vocabulary
from vlp_bench.data.transforms.images import Eval
from vlp_bench.models.blip.model import BLIP
from vlp_bench.models.blip.towers import BLIPConfig
from vlp_bench.models.xvlm.model import XVLM

SIZES: dict[str, Any] = {"train": 12, "val": 5, "test": 7, "general": 8, "regions": 8}


def tiny_blip() -> BLIP:
    known = len(vocabulary())
    config = BLIPConfig(
        image_size=48, patch_size=16, vision_width=16, vision_layers=2, vision_heads=2, text_width=16, text_layers=2,
        text_heads=2, embed_dim=8, max_positions=40, vocab_size=known + 2, dec_id=known, enc_id=known + 1,
        queue_size=12,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BLIP(config)


def tiny(family: str) -> XVLM | BLIP:
    return tiny_model() if family == "xvlm" else tiny_blip()


def shared(**changes: Any) -> dict[str, Any]:
    settings = CalibrationSettings(Eval(48), Eval(48), side=3, num_batches=2, batch_size=4)
    given = {"train_transform": Eval(48), "eval_transform": Eval(48), "calibration": settings}
    return given | {"batch_size": 6, "eval_batch_size": 4} | changes


def questions(**changes: Any) -> QuestionData:
    return QuestionData(ShapesQuestions(**SIZES), **shared(**changes))


def captions(**changes: Any) -> CaptioningData:
    return CaptioningData(ShapesCaptions(**SIZES), **shared(**changes))
