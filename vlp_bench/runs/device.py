"""Where a run computes, and in which precision it is fine-tuned there."""

from collections.abc import Mapping
from typing import Any

import torch

from vlp_bench.pruning.precision import SLOW, multiplies_bf16

AUTO, HALF, FULL = "auto", "bf16-mixed", "32-true"


def root_device(config: Mapping[str, Any]) -> torch.device:
    """Where conf/trainer will train, so that pruning happens there too."""
    choice = config["trainer"].get("accelerator", "auto")
    wanted = torch.cuda.is_available() if choice == "auto" else choice in ("gpu", "cuda")
    return torch.device("cuda" if wanted and torch.cuda.is_available() else "cpu")


def training_precision(config: Mapping[str, Any]) -> str:
    """That of conf/trainer; "auto" is bf16-mixed where products are faster in bfloat16, and 32-true elsewhere."""
    asked = str(config["trainer"].get("precision", FULL))
    if asked != AUTO:
        return asked
    return HALF if multiplies_bf16(root_device(config)) else FULL


def trainer_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """conf/trainer in Lightning's words."""
    return config["trainer"] | {"precision": training_precision(config)}


def about_precision(config: Mapping[str, Any]) -> str:
    """What "auto" stands for here, or that what was asked for is slow here; empty where there is nothing to say."""
    asked, used = config["trainer"].get("precision"), training_precision(config)
    slow = not multiplies_bf16(root_device(config))
    if asked == AUTO:
        return f"precision=auto: {used}" + (f" ({SLOW})" if slow else "")
    return f"precision={used}: {SLOW}; precision=32-true or auto is faster here" if slow and used == HALF else ""
