"""What a figure was measured on."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path


def machine() -> str:
    """The processor, as far as it says what it is."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    wide = "AVX-512" if any(" avx512f" in line for line in lines) else ""
    return ", ".join(word for word in (model or platform.processor() or platform.machine(), wide) if word)


def commit() -> str:
    """Of the checkout, with a plus if something in it has changed; empty outside of one."""
    described = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(described, check=False, capture_output=True, text=True).stdout.strip()
