"""What code a figure was measured with."""

from __future__ import annotations

import subprocess
from pathlib import Path


def commit() -> str:
    """Of the checkout, with a plus if something in it has changed; empty outside of one."""
    described = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(described, check=False, capture_output=True, text=True).stdout.strip()
