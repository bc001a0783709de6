"""Where a run computes, in which precision it is fine-tuned there, and how much memory a stretch of work took there."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vlp_bench.pruning.precision import SLOW, multiplies_bf16

AUTO, HALF, FULL = "auto", "bf16-mixed", "32-true"
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def root_device(config: Mapping[str, Any]) -> torch.device:
    """Where conf/trainer will train, so that pruning happens there too."""
    wanted = config["trainer"].get("accelerator", "auto") in ("auto", "gpu", "cuda")
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


@dataclass
class Peak:
    """Units of 10⁹ bytes; None where the system does not tell (it is measured on CUDA and on Linux)."""

    gigabytes: float | None = None


@contextmanager
def peak(device: torch.device) -> Iterator[Peak]:
    """Measure what happens inside: memory allocated on a CUDA device, or the resident size of the process."""
    found = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield found
        found.gigabytes = torch.cuda.max_memory_allocated(device) / 1e9
        return
    reset = _reset()
    yield found
    found.gigabytes = _resident_peak() if reset else None


def _reset() -> bool:
    """Let Linux forget the largest size of the process so far; False where it will not."""
    try:
        RESET.write_text("5")
    except OSError:
        return False
    return True


def _resident_peak() -> float | None:
    for line in STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e9
    return None
