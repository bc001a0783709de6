"""Where a number comes from: versions, commit, hardware. Nothing here is allowed to stop a run."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from vlp_bench import __version__
from vlp_bench.runs.terminal.conf import PACKAGE

CPU_INFO = Path("/proc/cpuinfo")
UNITS = {"AVX-512": "avx512f", "AMX": "amx_bf16"}  # by the name of its flag on Linux
LIBRARIES = ("torch", "lightning", "transformers")


@cache
def versions() -> dict[str, str]:
    """Versions of python and of the libraries that decide numbers; torch's with its build (2.13.0+cpu)."""
    found = {"python": sys.version.split()[0], "vlp_bench": __version__}  # of the code, not of an older install of it
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


@cache
def commit() -> tuple[str | None, bool | None]:
    """Commit of the checkout this code runs from, and whether files differ from it; (None, None) without a checkout."""
    if not (PACKAGE.parent / ".git").exists():
        return None, None
    head = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return head, bool(changes) if head and changes is not None else None


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *words], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@cache
def processor() -> str:
    """The processor's own name, and what decides how fast it is in 32 and in 16 bits: "..., AVX-512, AMX"."""
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:  # no Linux
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    units = [name for name, flag in UNITS.items() if flag in flags]
    return ", ".join([model or platform.processor() or platform.machine(), *units])


def hardware() -> dict[str, Any]:
    """What the run computed on."""
    import torch

    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return {
        "machine": platform.machine(),
        "processor": processor(),
        "system": platform.system(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def origin(config: dict[str, Any], weights: str | None) -> dict[str, Any]:
    """The provenance of a run as far as it is known at its start; data, mask and seconds are filled in later."""
    head, dirty = commit()
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    known = {
        "config": config,
        "versions": versions(),
        "commit": head,
        "dirty": dirty,
        "hardware": hardware(),
        "time": now,
    }
    return known | {"weights": weights, "data": None, "mask": None, "seconds": 0.0}
