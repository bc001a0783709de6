"""How much memory a stretch of work needed at most: of the GPU it computes on, else of this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


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
