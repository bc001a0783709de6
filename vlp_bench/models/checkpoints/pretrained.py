"""Folders in Hugging Face's layout: `config.json`, `model.safetensors` and, as README.md, the model's card."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from torch import nn

from vlp_bench.data.readers.checked import load
from vlp_bench.models.checkpoints.families import FAMILIES, family_of
from vlp_bench.models.checkpoints.read_write import CheckpointError, load_model, read_config, save_model
from vlp_bench.models.smaller_config import smaller_config
from vlp_bench.models.units import unit_counts

WEIGHTS, CONFIG, CARD, MASK = "model.safetensors", "config.json", "README.md", "mask.safetensors"
PREFIX = "vlp_bench_"


def save_pretrained(model: nn.Module, folder: str | Path, card: str = "") -> Path:
    """Writes a model of ours, or one of transformers, and its card; returns the folder.

    Raises:
        ValueError: the model has no configuration that could be written, or none that tells how much was cut out.
    """
    folder, config = Path(folder), getattr(model, "config", None)
    folder.mkdir(parents=True, exist_ok=True)
    own: Any = model
    if isinstance(config, tuple(family.config for family in FAMILIES)):
        (folder / CONFIG).write_text(json.dumps(_content(config), indent=2) + "\n", encoding="utf-8")
        save_model(folder / WEIGHTS, own)
    elif hasattr(model, "save_pretrained"):
        if unit_counts(model):
            own.config = smaller_config(model)
        own.save_pretrained(folder)
    else:
        raise ValueError(f"{type(model).__name__} is no model of vlp_bench or transformers: save its state_dict()")
    if card:
        (folder / CARD).write_text(card, encoding="utf-8")
    return folder


def _content(config: Any) -> dict[str, Any]:
    name = family_of(config).name
    return {"architectures": [name], "model_type": PREFIX + name.lower()} | dataclasses.asdict(config)


def from_pretrained(folder: str | Path) -> nn.Module:
    """The model of a folder, in evaluation mode: one that `save_pretrained` wrote, or any of transformers'.

    Raises:
        ValueError: no such folder, or its configuration and its weights don't belong together.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise CheckpointError(folder, f"holds no {CONFIG}", "give a folder that save_pretrained wrote")
    content = load(folder / CONFIG, infinite=True)
    if not isinstance(content, dict):
        raise CheckpointError(folder, f"its {CONFIG} is no object with keys of a model", "copy it again")
    if not str(content.get("model_type", "")).startswith(PREFIX):
        return _of_transformers(folder)
    if content != _content(read_config(folder / WEIGHTS)):
        raise CheckpointError(folder, f"{CONFIG} says something else than {WEIGHTS}", "save it again")
    return load_model(folder / WEIGHTS)


def _of_transformers(folder: Path) -> nn.Module:
    import transformers

    from vlp_bench.models.checkpoints.hub import config_of, read_reported

    name = next(iter(config_of(folder).get("architectures") or []), "AutoModel")
    kind = getattr(transformers, name, None)
    base = transformers.PreTrainedModel
    if name != "AutoModel" and (not isinstance(kind, type) or not issubclass(kind, base) or kind is base):
        raise CheckpointError(folder, f"transformers has no model {name}", "load it with the code that it needs")
    model, wrong = read_reported(kind, folder)
    if lacking := [*wrong.get("missing", ()), *wrong.get("mismatched", ())]:
        raise CheckpointError(folder, f"its weights are not those of a {name} ({lacking[0]})", "save it again")
    return model.eval()
