"""What a module tree says of itself: which modality a module reads, and which modules are its repeated layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from inspect import signature

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

VISION, TEXT, FUSION, AUDIO = "vision", "text", "fusion", "audio"
SEEN = {"image": VISION, "video": VISION, "text": TEXT, "audio": AUDIO}
"""What transformers calls the inputs of a model -> modality."""
CONNECTORS = ("projector", "connector", "merger", "qformer", "resampler", "perceiver", "abstractor", "aligner")
"""Words in the names of modules between a vision tower and a language model, wherever they lie."""
CROSS = ("cross", "encoder_attn", "encdecattention")
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
        """Path of every nested model -> the one modality it reads, None for several."""
        return {path: _modality(module) for path, module in self.nested.items()}

    @cached_property
    def blocks(self) -> list[str]:
        """Paths of the repeated layers."""
        return list(_repeated("", self.model))

    @cached_property
    def of_pairs(self) -> bool:
        """Whether it compares images with texts (CLIP), so that its projections belong to its towers."""
        return "return_loss" in signature(self.model.forward).parameters

    def around(self, path: str) -> list[str]:
        """Paths of the nested models a path lies in, innermost first."""
        return [own for own in reversed(self.nested) if own == "" or f"{path}.".startswith(f"{own}.")]

    def tower(self, path: str) -> str | None:
        """The modality of the innermost nested model around a path that reads one only."""
        told = (self.towers[own] for own in self.around(path))
        return next((modality for modality in told if modality), None)

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
        return any(self.towers[own] == TEXT and _encodes(self.nested[own]) for own in self.around(path))

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


def _encodes(model: PreTrainedModel) -> bool:
    return bool(getattr(model.config, "is_encoder_decoder", False))


def _named(path: str) -> str | None:
    """The modality that a projection of a dual encoder is named after."""
    last = path.split(".")[-1]
    return VISION if last.startswith(("visual", "vision", "image")) else TEXT if last.startswith("text") else None


def is_cross(path: str) -> bool:
    """Whether a path lies in cross-attention."""
    return any(part.lower().startswith(CROSS) for part in path.split("."))


def reads_other_side(path: str) -> bool:
    """Whether the module at a path maps keys or values of cross-attention."""
    return is_cross(path) and path.split(".")[-1].lower() in KEYS_VALUES


def _modality(model: PreTrainedModel) -> str | None:
    """What a model says it reads; one that inherits a wrong word has patches, and no words."""
    said = model.input_modalities
    found = {SEEN.get(word) for word in ([said] if isinstance(said, str) else said)}
    kinds = [type(module) for module in model.modules()]
    patches = any(issubclass(kind, nn.Conv2d | nn.Conv3d) for kind in kinds)
    if patches and nn.Embedding not in kinds:
        return VISION
    if patches and found == {TEXT}:
        return VISION if model.main_input_name.startswith("pixel") else None
    return found.pop() if len(found) == 1 else None


def _repeated(path: str, module: nn.Module) -> Iterator[str]:
    for name, child in module.named_children():
        below = f"{path}.{name}".lstrip(".")
        if isinstance(child, nn.ModuleList) and _is_list_of_layers(child):
            for number, item in enumerate(child):
                yield from _stages(f"{below}.{number}", item)
        else:
            yield from _repeated(below, child)


def _stages(path: str, item: nn.Module) -> Iterator[str]:
    """The layers of a stage that is little else than a list of equal layers (Swin); the item itself otherwise."""
    own = sum(p.numel() for p in item.parameters())
    for name, child in item.named_children():
        if isinstance(child, nn.ModuleList) and "expert" not in name and len({type(c) for c in child}) == 1:
            inside = sum(p.numel() for p in child.parameters())
            if 2 * inside > own and _is_list_of_layers(child):
                yield from (f"{path}.{name}.{number}" for number in range(len(child)))
                return
    yield path


def _is_list_of_layers(modules: Iterable[nn.Module]) -> bool:
    """Whether each has several linear layers in it."""
    counts = [sum(isinstance(m, nn.Linear | Conv1D) for m in module.modules()) for module in modules]
    return bool(counts) and min(counts) > 1
