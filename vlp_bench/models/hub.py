"""Models that transformers builds and reads: CLIP and BLIP-2 from a folder in the hub's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from vlp_bench.models.places import located, warn


def read_pretrained(kind: Any, weights: Path | str, attention: str, **changes: Any) -> Any:
    """A model of the transformers class `kind`, float32 and in eval mode, from a folder in the hub's layout.

    weights: the folder, or `hf:owner/name`. Strict: ValueError if the folder is not there, is another model's, or lacks
    a weight or has one too many. Nothing in it is executed.
    """
    warn(weights)
    folder = located(weights)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{weights}: no config.json in {folder}; give a folder as the hub has it, or hf:owner/name")
    kept = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    wanted = getattr(kind.config_class, "model_type", None)
    if kept != wanted:
        raise ValueError(f"{weights}: holds a model of type {kept}, {kind.__name__} is of type {wanted}")
    settings = {"attn_implementation": attention, "dtype": torch.float32, "local_files_only": True}
    try:
        model, report = kind.from_pretrained(
            folder, weights_only=True, trust_remote_code=False, output_loading_info=True, **settings, **changes
        )
    except (OSError, RuntimeError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{weights}: cannot be read as a {kind.__name__} ({reason})") from error
    wrong = {name: sorted(map(str, report[f"{name}_keys"])) for name in ("missing", "unexpected", "mismatched")}
    if found := {name: keys for name, keys in wrong.items() if keys}:
        told = "; ".join(f"{name} {', '.join(keys[:5])}" for name, keys in found.items())
        raise ValueError(f"{weights}: not the weights of a {kind.__name__}: {told}")
    return model.eval()
