"""Models that transformers builds and reads: CLIP, BLIP-2 and MiniLM from a folder in the hub's layout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import BertModel, Blip2ForConditionalGeneration, CLIPModel
from transformers.utils import logging

from vlp_bench.data.readers.checked import load
from vlp_bench.models.checkpoints.locations import located, warn

KINDS = {
    "clip": ("CLIP", CLIPModel),
    "blip-2": ("BLIP-2", Blip2ForConditionalGeneration),
    "bert": ("MiniLM", BertModel),
}
"""What our models are made of: the `model_type` of their folders, the model, the class of transformers."""
ADAPTER = "adapter_config.json"
SCARCE = (MemoryError, torch.OutOfMemoryError)
"""What says nothing of a folder."""


def model_type(folder: Path) -> str | None:
    """What the config.json of a folder says it holds; None without one."""
    return config_of(folder).get("model_type") if (folder / "config.json").is_file() else None


def config_of(folder: Path) -> dict[str, Any]:
    """The content of a folder's config.json; ValueError where it is not what transformers writes."""
    file = folder / "config.json"
    content = load(file, infinite=True)
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected an object with keys of a model; is the download complete?")
    names, kind = content.get("architectures") or [], content.get("model_type", "")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in (*names, kind)):
        raise ValueError(f"{file}: architectures is a list of names, and model_type a name; is the download complete?")
    if code := next(_code_elsewhere(content), ""):
        raise ValueError(f"{file}: {code} is code of another repository, which is never run: take the key out")
    return content


def _code_elsewhere(content: Any) -> Iterator[str]:
    """What a configuration would have transformers fetch and run, by key and value, in its parts too.

    `attn_implementation: owner/name` is a kernel of the hub.
    """
    for key, value in content.items() if isinstance(content, dict) else ():
        if "_implementation" in key and "/" in str(value):
            yield f"{key}={value}"
        yield from _code_elsewhere(value)


def weight_files(folder: Path) -> list[Path]:
    """The .safetensors files that from_pretrained reads: model.safetensors, else those that its index names."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file() or not index.is_file():
        return [whole] if whole.is_file() else []
    return [folder / name for name in _shards(index)]


def _shards(index: Path) -> list[str]:
    """The files that an index names, all beside it; ValueError for anything else."""
    content = load(index)
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{index}: expected a weight_map of names of files; is the download complete?")
    if odd := [name for name in names.values() if name in ("", "..") or set(name) & set("/\\")]:
        raise ValueError(f"{index}: {odd[0]!r} is no file beside it")
    return sorted(set(names.values()))


def check_files(folder: Path) -> None:
    """ValueError for what would be read from elsewhere, or not at all, and for weight files that are not whole."""
    if (folder / ADAPTER).is_file():
        raise ValueError(f"{folder}: {ADAPTER} belongs to an adapter, which is not read: merge it into its model first")
    for index in folder.glob("*.index.json"):
        _shards(index)
    for file in weight_files(folder):
        _check_whole(file)


def _check_whole(file: Path) -> None:
    """ValueError for a .safetensors file that is not there, or shorter or longer than its header says."""
    if not file.is_file():
        raise ValueError(f"{file}: no such file, and the index beside it names it; is the download complete?")
    try:
        with safe_open(file, "pt"):
            pass
    except SafetensorError as error:
        raise ValueError(f"{file}: truncated or no .safetensors file ({error}); is the download complete?") from error


def told(error: Exception) -> str:
    """What an error of a library says, in a line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def read_reported(kind: Any, folder: Path, **settings: Any) -> tuple[Any, dict[str, list[str]]]:
    """A model of a folder, and the names of weights that are `missing`, `unexpected` or `mismatched`, where any are.

    ValueError if the folder cannot be read as a `kind`, whatever the library says of it. Nothing in it is executed.
    """
    check_files(folder)
    safe = {"weights_only": True, "trust_remote_code": False, "local_files_only": True, "ignore_mismatched_sizes": True}
    with quietly():
        try:
            model, report = kind.from_pretrained(folder, output_loading_info=True, **safe, **settings)
        except SCARCE:
            raise
        except Exception as error:
            raise ValueError(f"{folder}: cannot be read as a {kind.__name__} ({told(error)})") from error
    named = {name: sorted(_names(report[f"{name}_keys"])) for name in ("missing", "unexpected", "mismatched")}
    return model, {name: keys for name, keys in named.items() if keys}


@contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' bars and warnings inside."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _names(keys: Iterable[Any]) -> list[str]:
    """A mismatched key comes with both shapes."""
    return [key if isinstance(key, str) else misshapen(*key) for key in keys]


def misshapen(name: str, stored: Iterable[int], wanted: Iterable[int]) -> str:
    """What is said of a weight that has another shape than its model."""
    return f"{name} ({tuple(stored)} in the file, {tuple(wanted)} by config.json)"


def read_pretrained(kind: Any, weights: Path | str, attention: str, **changes: Any) -> Any:
    """A model of the transformers class `kind`, float32 and in eval mode, from a folder in the hub's layout.

    weights: the folder, or `hf:owner/name`. Strict: ValueError if the folder is not there, is another model's, or lacks
    a weight or has one too many. Nothing in it is executed.
    """
    warn(weights)
    folder = located(weights)
    kept, wanted = model_type(folder), getattr(kind.config_class, "model_type", None)
    if kept is None:
        raise ValueError(f"{weights}: no config.json in {folder}; give a folder as the hub has it, or hf:owner/name")
    if kept != wanted:
        raise ValueError(f"{weights}: holds a model of type {kept}, {kind.__name__} is of type {wanted}")
    model, wrong = read_reported(kind, folder, attn_implementation=attention, dtype=torch.float32, **changes)
    if wrong:
        told = "; ".join(f"{name} {', '.join(keys[:5])}" for name, keys in wrong.items())
        raise ValueError(f"{weights}: not the weights of a {kind.__name__}: {told}")
    return model.eval()
