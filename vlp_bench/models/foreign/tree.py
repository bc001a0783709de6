"""What a module tree says of itself: which modality a module reads, and which modules are its repeated layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from inspect import signature
from typing import TypeGuard

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

VISION, TEXT, FUSION, AUDIO = "vision", "text", "fusion", "audio"
SEEN = {"image": VISION, "video": VISION, "text": TEXT, "audio": AUDIO}
"""What transformers calls the inputs of a model -> modality."""
RAW = {
    "pixel_values": VISION,
    "flattened_patches": VISION,
    "input_ids": TEXT,
    "input_features": AUDIO,
    "input_values": AUDIO,
}
"""Part of the name of an argument that takes raw inputs -> modality."""
OF_PIXELS = ("imagegpt",)
"""Models whose input_ids are the colours of an image's pixels."""
ANSWERING = ("blip",)
"""Kinds of models of which one takes decoder_input_ids and shifts no labels for them."""
REGIONS = {"visual_embeds", "visual_feats", "image"}
"""Arguments by which a model takes images that others have looked at (LXMERT), or calls them otherwise."""
CONNECTORS = ("projector", "connector", "merger", "qformer", "resampler", "perceiver", "abstractor", "aligner")
"""Words in the names of modules between a vision tower and a language model, wherever they lie."""
CROSS = ("cross", "encoder_attn", "encdecattention", "encoder_decoder_attention")
"""Beginnings of the names of attention to what another module gives."""
KEYS_VALUES = {"k", "v", "key", "value", "k_proj", "v_proj", "kv", "kv_proj", "key_value", "c_attn"}
"""Names of the projections of cross-attention that read the other side."""


class Tree:
    """A model's modules, asked by their dotted paths.

    Args:
        model: any model of transformers.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.modules = dict(model.named_modules())

    @cached_property
    def nested(self) -> dict[str, PreTrainedModel]:
        """Every model inside the model, itself with the path "", outermost first."""
        return {path: module for path, module in self.modules.items() if isinstance(module, PreTrainedModel)}

    @cached_property
    def towers(self) -> dict[str, str | None]:
        """Path of every nested model, and of plain modules around layers that take raw inputs -> the one modality it
        reads, None for several. Outermost first.
        """
        around = {block[:end] for block in self.blocks for end, letter in enumerate(block) if letter == "."}
        models = {path: _modality(module) for path, module in self.nested.items()}
        plain = {path: _taken(self.modules[path]) for path in around - models.keys()}
        found = models | {path: own.pop() for path, own in plain.items() if len(own) == 1}
        return {path: found[path] for path in self.modules if path in found}

    @cached_property
    def blocks(self) -> list[str]:
        """Paths of the repeated layers."""
        return list(_repeated("", self.model))

    @cached_property
    def of_pairs(self) -> bool:
        """Whether it compares images with texts (CLIP), so that its projections belong to its towers."""
        apart = hasattr(self.model, "get_image_features") and hasattr(self.model, "get_text_features")
        return apart or "return_loss" in signature(self.model.forward).parameters

    def around(self, path: str) -> list[str]:
        """Paths of the nested models a path lies in, innermost first."""
        return [own for own in reversed(self.nested) if _lies_in(path, own)]

    def tower(self, path: str) -> str | None:
        """The modality of the innermost tower around a path that reads one only."""
        told = (own for tower, own in reversed(self.towers.items()) if own and _lies_in(path, tower))
        return next(told, None)

    def modality(self, path: str) -> str:
        """The modality of the module at a path: fusion where images and texts meet."""
        tower = self.tower(path)
        if self.of_pairs and tower is None and (named := _named(path)):
            return named
        if not tower or self.is_connector(path):
            return FUSION
        fused = tower == TEXT and is_cross(path) and not self._has_encoder(path)
        return FUSION if fused and VISION in self.towers.values() else tower

    def is_connector(self, path: str) -> bool:
        """Whether a path lies in a module that hands image tokens to a language model."""
        several = VISION in self.towers.values() and len(set(self.towers.values())) > 1
        return several and any(word in part.lower() for part in path.split(".") for word in CONNECTORS)

    def _has_encoder(self, path: str) -> bool:
        """Whether cross-attention looks at an encoder of texts."""
        around = [own for own in self.around(path) if self.towers[own] == TEXT and _encodes(self.nested[own])]
        encoders = [module for module in self.modules if module.split(".")[-1] == "encoder"]
        return any(_lies_in(encoder, own) for own in around for encoder in encoders)

    def in_decoder(self, path: str) -> bool:
        """Whether a path lies in the decoder of a model with an encoder."""
        parts = path.split(".")
        below = any(_encodes(self.nested[own]) for own in self.around(path))
        return below and any("decoder" in part or part == "lm_head" for part in parts)

    def block(self, path: str) -> str:
        """The repeated layer a path lies in, else the outermost module around it that holds none, below its model."""
        if own := next((block for block in self.blocks if f"{path}.".startswith(f"{block}.")), None):
            return own
        parts = path.split(".")
        first = len(self.around(path)[0].split(".")) + 1 if self.around(path)[0] else 1
        places = (".".join(parts[:length]) for length in range(first, len(parts) + 1))
        return next((p for p in places if not any(b.startswith(f"{p}.") for b in self.blocks)), path)


def answers_apart(model: PreTrainedModel) -> bool:
    """Whether a decoder answers what an encoder reads, though the configuration tells of none: BLIP's for questions."""
    return model.config.model_type in ANSWERING and "decoder_input_ids" in signature(model.forward).parameters


def _encodes(model: PreTrainedModel) -> bool:
    return answers_apart(model) or bool(getattr(model.config, "is_encoder_decoder", False))


def _named(path: str) -> str | None:
    """The modality that a projection of a dual encoder is named after."""
    words = {"visual": VISION, "vision": VISION, "image": VISION, "text": TEXT, "audio": AUDIO}
    return next((own for part in path.split(".") for word, own in words.items() if part.startswith(word)), None)


def is_cross(path: str) -> bool:
    """Whether a path lies in cross-attention."""
    return any(part.lower().startswith(CROSS) for part in path.split("."))


def reads_other_side(path: str) -> bool:
    """Whether the module at a path maps keys or values of cross-attention."""
    return is_cross(path) and path.split(".")[-1].lower() in KEYS_VALUES


def _lies_in(path: str, module: str) -> bool:
    return module == "" or f"{path}.".startswith(f"{module}.")


def _modality(model: PreTrainedModel) -> str | None:
    """What the arguments of a model's forward say it reads, else the model; None for several.

    What a model says may be its family's word or, where nobody has said anything, "text".
    """
    if model.config.model_type in OF_PIXELS:
        return VISION
    found = _taken(model) | ({VISION} if REGIONS & signature(model.forward).parameters.keys() else set())
    if not found:
        said = model.input_modalities
        found = {SEEN.get(word) for word in ([said] if isinstance(said, str) else said)}
        if found == {AUDIO}:  # nobody's default; it may have convolutions
            return AUDIO
        kinds = [type(module) for module in model.modules()]
        if nn.Embedding not in kinds and any(issubclass(kind, nn.Conv2d | nn.Conv3d) for kind in kinds):
            return VISION
        if said == PreTrainedModel.input_modalities:
            return None
    return found.pop() if len(found) == 1 else None


def _taken(module: nn.Module) -> set[str | None]:
    """Modalities of the raw inputs that a module's forward takes."""
    names = signature(module.forward).parameters
    return {modality for word, modality in RAW.items() if any(word in name for name in names)}


def _repeated(path: str, module: nn.Module) -> Iterator[str]:
    for name, child in module.named_children():
        below = f"{path}.{name}".lstrip(".")
        if isinstance(child, nn.ModuleList) and _is_list_of_layers(child):
            for number, item in enumerate(child):
                yield from _stages(f"{below}.{number}", item)
        elif _is_list_of_equals(child):
            yield from (f"{below}.{number}" for number in range(len(child)))
        else:
            yield from _repeated(below, child)


def _stages(path: str, item: nn.Module) -> Iterator[str]:
    """The layers of a stage that is little else than a list of equal layers (Swin); the item itself otherwise.

    A stage that is itself a list (Florence-2, PVT) is never called: its items are the layers.
    """
    if isinstance(item, nn.ModuleList):
        yield from (f"{path}.{number}" for number in range(len(item)))
        return
    own = sum(p.numel() for p in item.parameters())
    for name, child in item.named_children():
        inside = sum(p.numel() for p in child.parameters())
        if "expert" not in name and _is_list_of_equals(child) and 2 * inside > own:
            yield from (f"{path}.{name}.{number}" for number in range(len(child)))
            return
    yield path


def _is_list_of_equals(module: nn.Module) -> TypeGuard[nn.ModuleList | nn.Sequential]:
    """Whether it is a list of layers of one kind."""
    if not isinstance(module, nn.ModuleList | nn.Sequential):
        return False
    return len({type(item) for item in module}) == 1 and _is_list_of_layers(module)


def _is_list_of_layers(modules: Iterable[nn.Module]) -> bool:
    """Whether each has several linear layers in it."""
    counts = [sum(isinstance(m, nn.Linear | Conv1D) for m in module.modules()) for module in modules]
    return bool(counts) and min(counts) > 1
