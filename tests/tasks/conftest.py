"""A model and a world small enough that a test fine-tunes in a second."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from vlp_bench.data.datasets.retrieval import CalibrationSettings, RetrievalData
from vlp_bench.data.datasets.sources import ShapesRetrieval
from vlp_bench.data.shapes.phrases import vocabulary
from vlp_bench.data.transforms.images import Eval, Light
from vlp_bench.models.xvlm.model import XVLM
from vlp_bench.models.xvlm.towers import XVLMConfig
from vlp_bench.tasks.retrieval import Retrieval

SOURCE = ShapesRetrieval(train=26, val=12, test=14, general=8, regions=8)


def tiny_model(seed: int = 0, dropout: float = 0.1) -> XVLM:
    config = XVLMConfig(
        image_size=48, patch_size=16, vision_width=16, vision_layers=2, vision_heads=2, local_attn_depth=1,
        text_width=16, text_layers=2, fusion_layers=1, text_heads=2, embed_dim=8, max_positions=40,
        vocab_size=len(vocabulary()), dropout=dropout,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return XVLM(config)


def tiny_data(**changes: Any) -> RetrievalData:
    settings = CalibrationSettings(Eval(48), Eval(48), side=3, num_batches=2, batch_size=4)
    arguments: dict[str, Any] = {"each": "image", "batch_size": 6, "eval_batch_size": 5}
    return RetrievalData(
        SOURCE, train_transform=Light(48, 1), eval_transform=Eval(48), calibration=settings, **arguments | changes
    )


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Trainer]:
    """Trains a task on the tiny world, on one CPU, and returns the trainer; everything random starts from `stream`."""

    def trained(
        task: Retrieval, *callbacks: Callback, data: RetrievalData | None = None, resume: Path | None = None,
        stream: int = 0, **settings: Any,
    ) -> Trainer:  # fmt: skip
        torch.manual_seed(stream)
        trainer = Trainer(
            **{
                "accelerator": "cpu", "devices": 1, "max_epochs": 2, "logger": False, "enable_checkpointing": False,
                "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
                "default_root_dir": str(tmp_path), "callbacks": list(callbacks),
            }
            | settings
        )  # fmt: skip
        trainer.fit(task, data or tiny_data(), ckpt_path=resume, weights_only=True if resume else None)
        return trainer

    return trained
