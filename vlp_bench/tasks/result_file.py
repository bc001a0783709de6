"""The JSON files that evaluation servers take, written whole or not at all."""

import json
from pathlib import Path


def write_json(file: Path, content: object) -> None:
    """Write JSON beside the target, then rename: a reader never sees half a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(f".{file.name}.tmp")
    scratch.write_text(json.dumps(content), encoding="utf-8")
    scratch.replace(file)
