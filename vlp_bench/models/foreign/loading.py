"""A model of transformers from a folder or the hub: its class by config.json, its weights from safetensors alone."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin
from transformers.image_processing_base import ImageProcessingMixin

from vlp_bench.data.readers.checked import load as load_json
from vlp_bench.models.checkpoints.hub import SCARCE, check_files, config_of, read_reported, told, weight_files
from vlp_bench.models.checkpoints.locations import HUB, located
from vlp_bench.models.offloading import parameters_on_meta
from vlp_bench.spelling import count_of

log = logging.getLogger(__name__)
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
DEQUANTISED = "mxfp4"
"""What transformers makes numbers of where it lacks the kernels."""
DTYPES = ("float32", "bfloat16", "float16")
NUMBERS = ("F64", "F32", "F16", "BF16")
"""What a .safetensors file calls the types that a model computes in."""
OF_BUFFERS = (r"rotary_emb\.inv_freq$", r"(^|\.)position_ids$")
"""Buffers that older checkpoints hold and every model makes itself."""
BESIDE = {
    "processor_class": ProcessorMixin,
    "tokenizer_class": PreTrainedTokenizerBase,
    "image_processor_type": ImageProcessingMixin,
}
"""Keys of the files beside a model that name a class, and what it has to be."""


def found_folder(place: str, *, config_alone: bool = False) -> Path:
    """The folder of a model: a path, or `hf:owner/name` in the local cache or fetched.

    `config_alone`: its weights need not be there.

    Raises:
        ValueError: there is no such folder, or no model in the hub's layout in it; says what is there. Or a file of its
            weights is missing or not whole.
    """
    folder = located(place)
    if not folder.is_dir():
        near = f"; a repository of the hub is written {HUB}{place}" if place.count("/") == 1 else ""
        raise ValueError(f"model={place}: there is no such folder{near}{_beside(folder)}")
    if not (folder / "config.json").is_file():
        merged = "; it is an adapter: merge it into its model (peft's merge_and_unload) and save that"
        adapter = merged if (folder / "adapter_config.json").is_file() else ""
        raise ValueError(f"model={place}: no config.json in it; it holds {_contents(folder)}{adapter}")
    if config_alone:
        return folder
    if odd := next((folder / name for name in WEIGHTS if _is_no_file(folder / name)), None):
        raise ValueError(f"{odd}: a link to nothing, or no file; is the download complete?")
    if not (files := sorted(file.name for file in folder.glob("*.safetensors"))):
        raise ValueError(
            f"model={place}: no .safetensors in it (it holds {_contents(folder)}); other files may run code when "
            "they are read: convert them with transformers' from_pretrained and save_pretrained"
        )
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise ValueError(
            f"model={place}: its weights are called {', '.join(files[:3])}, and from_pretrained looks for "
            f"{' or '.join(WEIGHTS)}: give the file that name, or save the model once more with save_pretrained"
        )
    check_files(folder)
    return folder


def _is_no_file(path: Path) -> bool:
    """Whether something is called so that can't be read."""
    return (path.is_symlink() or path.exists()) and not path.is_file()


def _beside(folder: Path) -> str:
    """Which models lie in the nearest folder that is there."""
    parent = next((own for own in folder.absolute().parents if own.is_dir()), None)
    models = sorted(file.parent.name for file in parent.glob("*/config.json")) if parent else []
    more = f" and {len(models) - 8} more" if len(models) > 8 else ""
    return f"; models in {parent}: {', '.join(models[:8])}{more}" if models else ""


def _contents(folder: Path) -> str:
    names = sorted(file.name for file in folder.iterdir())
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more or "nothing"


def load(folder: Path, dtype: str = "") -> PreTrainedModel:
    """The model of a folder in evaluation mode, in its own dtype or another of DTYPES. Nothing in it is executed.

    Its own is that of config.json; where that has none, of the first weight.

    Raises:
        ValueError: a class that transformers doesn't have, another dtype, or weights that are missing or misshapen.
    """
    if dtype and dtype not in DTYPES:
        raise ValueError(f"dtype={dtype}: use one of {', '.join(DTYPES)}, or nothing for the stored one")
    kind = _class_of(folder)
    settings: dict[str, Any] = {"dtype": getattr(torch, dtype) if dtype else "auto", "use_safetensors": True}
    model, wrong = read_reported(kind, folder, **settings)
    surplus = wrong.pop("unexpected", [])
    if wrong:
        lacks = "; ".join(f"{name} {', '.join(keys[:3])}" for name, keys in wrong.items())
        raise ValueError(f"{folder}: its weights are not those of a {kind.__name__}: {lacks}")
    warn_of(folder, model, surplus)
    return model.eval()


def warn_of(folder: Path, model: PreTrainedModel, surplus: Iterable[str]) -> None:
    """Name the weights of a folder that are none of the model's, but for what its class says may lie there."""
    harmless = re.compile("|".join((*OF_BUFFERS, *(model._keys_to_ignore_on_load_unexpected or ()))))
    if names := [name for name in surplus if not harmless.search(name)]:
        named = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        weights = count_of(len(names), "weight")
        log.warning("%s holds %s that a %s has no place for: %s", folder, weights, type(model).__name__, named)


def _class_of(folder: Path) -> Any:
    """What config.json calls the model, or the plain model of its type."""
    config = config_of(folder)
    names = config.get("architectures") or []
    kind: Any = getattr(transformers, names[0], None) if names else transformers.AutoModel
    if kind is transformers.AutoModel or (_is_a(kind, PreTrainedModel) and kind is not PreTrainedModel):
        return kind
    own = f" (model_type {config['model_type']!r})" if "model_type" in config else ""
    raise ValueError(
        f"{folder}: transformers {transformers.__version__} has no model {names[0]}{own}; code of the repository's "
        "own is never run: load it yourself and call vlp_bench.prune"
    )


def check_numbers(folder: Path) -> None:
    """ValueError for a checkpoint of quantised weights, which are codes and no numbers."""
    ways = [*_quantised(config_of(folder)), *_codes(folder)]
    if how := next((way for way in ways if way != DEQUANTISED), ""):
        raise ValueError(f"{folder}: its weights are quantised ({how}): give the model as it was before that")


def _quantised(content: Any) -> Iterator[str]:
    """How a configuration says that weights are quantised, in its parts too (a language model's in a larger one)."""
    for key, value in content.items() if isinstance(content, dict) else ():
        if key == "quantization_config" and value is not None:
            yield str(value.get("quant_method", "in some way") if isinstance(value, dict) else value)
        else:
            yield from _quantised(value)


def _codes(folder: Path) -> Iterator[str]:
    """Weights that are stored as whole numbers or in eight bits, whatever config.json says."""
    for path in filter(Path.is_file, weight_files(folder)):
        with safe_open(path, "pt") as file:
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys() if name.endswith(".weight")}  # noqa: SIM118
        yield from (f"{name} is stored as {kind}" for name, kind in kinds.items() if kind not in NUMBERS)


def _config(folder: Path) -> Any:
    try:
        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except SCARCE:
        raise
    except Exception as error:
        raise ValueError(f"{folder}: its config.json cannot be read ({told(error)})") from error


def _built(folder: Path) -> PreTrainedModel:
    """The model of a folder as its class makes it. ValueError where config.json is not that of the class."""
    kind, config = _class_of(folder), _config(folder)
    try:
        return kind.from_config(config) if kind is transformers.AutoModel else kind._from_config(config)
    except SCARCE:
        raise
    except Exception as error:  # of whatever kind a class raises for another's configuration
        raise ValueError(f"{folder}: its config.json is not that of a {kind.__name__} ({told(error)})") from error


def skeleton(folder: Path) -> PreTrainedModel:
    """The model of a folder without its weights: modules and shapes, on the meta device.

    Raises:
        ValueError: a class that transformers doesn't have, or another's configuration.
    """
    with torch.device("meta"):
        return _built(folder)


def skeleton_with_buffers(folder: Path) -> PreTrainedModel:
    """As `skeleton`, in evaluation mode, its parameters tied and its buffers as the model's code makes them."""
    with parameters_on_meta():
        model = _built(folder)
    model.tie_weights()
    return model.eval()


def stored_dtype(folder: Path) -> torch.dtype | None:
    """The one that config.json names, which `load` takes where nothing else is asked for; None: it names none."""
    found = _config(folder).dtype
    return found if isinstance(found, torch.dtype) else None


def check_beside(folder: Path) -> None:
    """ValueError for a file beside a model that has a key twice, which transformers takes, or names another class.

    transformers would construct it, whatever it is.
    """
    for file in sorted(folder.glob("*_config.json")):
        content = load_json(file, infinite=True)
        for key, wanted in BESIDE.items() if isinstance(content, dict) else ():
            name = content.get(key) or ""
            if not isinstance(name, str) or not _may_be(name, wanted):
                raise ValueError(f"{file}: {key}={name!r:.80} is no {wanted.__name__} of transformers")


def _may_be(name: str, wanted: type) -> bool:
    """Whether a name is that of a subclass, of one that lacks a package, or of nothing that transformers has."""
    kind: Any = getattr(transformers, name, None)
    return kind is None or type(kind).__name__ == "DummyObject" or _is_a(kind, wanted)


def _is_a(kind: Any, wanted: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, wanted)


def kind_with_videos(folder: Path) -> Any:
    """The class of a folder's processor if it has a part for videos, else None."""
    files = (folder / name for name in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"))
    said = (load_json(file, infinite=True) for file in files if file.is_file())
    name = next((own["processor_class"] for own in said if own.get("processor_class")), "")
    kind: Any = getattr(transformers, name, None)
    return kind if _is_a(kind, ProcessorMixin) and "video_processor" in kind.get_attributes() else None


def without_videos(kind: Any, folder: Path, images: Any, words: Any) -> Any:
    """A processor of a `kind` whose part for videos can't be loaded (it needs torchvision).

    The part for images stands in its place: it is asked for its name and sizes, and never for a video.
    """
    parts = {"image_processor": images, "video_processor": images, "tokenizer": words}
    _spell_no_numbers(kind)
    as_all_do = {"apply_chat_template": ProcessorMixin.apply_chat_template}  # SmolVLM's looks at the part for videos
    unchecked_parts = {"check_argument_for_proper_class": lambda self, part, given: type(given)}
    unchecked = type(kind.__name__, (kind,), unchecked_parts | as_all_do)
    settings, _ = kind.get_processor_dict(folder, local_files_only=True)
    return unchecked.from_args_and_dict([parts[part] for part in kind.get_attributes()], settings)


def _spell_no_numbers(kind: Any) -> None:
    """SmolVLM's processor asks for a package (num2words) that spells the length of videos, which it is never shown."""
    module = sys.modules[kind.__module__]
    if getattr(module, "num2words", module) is None:
        vars(module)["num2words"] = str
