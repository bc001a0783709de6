"""The masks that MULTIFLOW's authors released: dictionaries saved by torch, under the names of their code.

An entry is a parameter's name with `_pruning_mask` after it, for the weight and the bias of every linear layer, those
that are never pruned included. Such files are read without executing anything in them, and every entry is accounted
for: it becomes a layer's mask, or it must keep everything, or the file is refused.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from vlp_bench.batch import Place
from vlp_bench.models.blip.model import BLIPAdapter
from vlp_bench.models.checkpoints.archives import check_archive, check_tensor
from vlp_bench.models.dino import DINOAdapter
from vlp_bench.models.xvlm.model import XVLMAdapter
from vlp_bench.pruning.layers import find_layers
from vlp_bench.pruning.masks.safetensors_files import BROKEN, first_line, write_whole
from vlp_bench.pruning.selection.thresholds import count
from vlp_bench.pruning.solution import Solution

SUFFIX = "_pruning_mask"
CURE = "give a mask file of the released MULTIFLOW code for XVLM, BLIP or DINO"
Names = tuple[tuple[str, str], ...]  # parts of names, theirs and ours


@dataclass(frozen=True)
class Family:
    """What the masks of one model are called."""

    name: str
    tower: str  # what theirs start with, and no other model's
    own: tuple[str, str]  # what ours start with, and contain
    parts: Names
    dense: tuple[str, ...]  # never pruned: parts of their names
    places: Callable[[Mapping[str, Tensor]], Callable[[str], Place]]

    def ours(self, name: str) -> str:
        """Their parameter's name -> ours."""
        for theirs, ours in self.parts:
            name = name.replace(theirs, ours)
        return name

    def theirs(self, name: str) -> str:
        """The inverse of `ours`, for layers that can be pruned."""
        for theirs, ours in self.parts:
            name = name.replace(ours, theirs)
        return name


def _xvlm_places(masks: Mapping[str, Tensor]) -> Callable[[str], Place]:
    """Fusion starts with the first layer that attends to the image."""
    fusing = [int(name.split(".")[4]) for name in masks if ".crossattention." in name]
    return XVLMAdapter(min(fusing, default=0)).place


FAMILIES = (
    Family(
        name="XVLM",
        tower="vision_encoder.",
        own=("vision_encoder.", ""),
        parts=(),
        dense=("vision_proj", "text_proj", "itm_head", "bbox_head", "text_encoder.cls"),
        places=_xvlm_places,
    ),
    Family(
        name="BLIP",
        tower="visual_encoder.",
        own=("vision_model.", ".qkv."),
        parts=(
            ("visual_encoder.blocks.", "vision_model.encoder.layers."),
            (".attn.qkv.", ".self_attn.qkv."),
            (".attn.proj.", ".self_attn.projection."),
        ),
        dense=("vision_proj", "text_proj", "itm_head", "visual_encoder_m", "text_encoder_m", "cls.predictions"),
        places=lambda masks: BLIPAdapter().place,
    ),
    Family(
        name="DINO",
        tower="vit.",
        own=("vision_model.", ".q_proj."),
        parts=(
            ("vit.encoder.layer.", "vision_model.encoder.layers."),
            (".attention.attention.query.", ".self_attn.q_proj."),
            (".attention.attention.key.", ".self_attn.k_proj."),
            (".attention.attention.value.", ".self_attn.v_proj."),
            (".attention.output.dense.", ".self_attn.projection."),
            (".intermediate.dense.", ".mlp.fc1."),
            (".output.dense.", ".mlp.fc2."),
        ),
        dense=("classifier",),
        places=lambda masks: DINOAdapter().place,
    ),
)


def read(path: str | Path, model: nn.Module | None = None) -> Solution:
    """A released mask file as a solution under our names.

    Args:
        path: a file saved by torch.
        model: if given, the masks must be of all of its prunable layers, and of their shapes. Without it every layer
            of a modality must have the same parts.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is something else, has an entry that can't be accounted for, or lacks a layer.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no mask file at {path}")
    data = path.read_bytes()
    try:
        state = _state(data)
        family = _family(state)
        masks = _masks(state, family)
        solution = _solution(masks, family, hashlib.sha256(data).hexdigest())
        _check_complete(solution) if model is None else _check_model(solution, model)
    except ValueError as reason:
        raise ValueError(f"{path}: {reason}; {CURE}") from reason
    return solution


def write(path: str | Path, solution: Solution) -> Path:
    """Writes masks under the released names, for the released code. Raises ValueError for masks of another model."""
    family = next((f for f in FAMILIES if _is_own(f, solution.masks)), None)
    if family is None:
        first = next(iter(solution.masks), "nothing")
        raise ValueError(f"masks of {first!r} and others have no released names: only those of XVLM, BLIP and DINO do")
    content = io.BytesIO()
    torch.save({family.theirs(name) + SUFFIX: mask.clone() for name, mask in solution.masks.items()}, content)
    return write_whole(path, content.getvalue())


def _is_own(family: Family, masks: Mapping[str, Tensor]) -> bool:
    start, part = family.own
    return any(name.startswith(start) and part in name for name in masks)


def _state(data: bytes) -> dict[str, Tensor]:
    check_archive(io.BytesIO(data), len(data))
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (UnpicklingError, EOFError, *BROKEN) as error:
        raise ValueError(f"truncated, or no file of plain tensors ({first_line(error)})") from error
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise ValueError("no dictionary of tensors")
    for key, tensor in state.items():
        check_tensor(key, tensor, len(data))
    return state


def _family(state: Mapping[str, Tensor]) -> Family:
    known = [family for family in FAMILIES if any(key.startswith(family.tower) for key in state)]
    if len(known) != 1:
        raise ValueError(f"{len(state)} entries, of none of {', '.join(f.name for f in FAMILIES)} or of several")
    return known[0]


def _masks(state: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    """The masks of what can be pruned, under our names; everything else is checked and left out."""
    masks: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = key.removesuffix(SUFFIX)
        if name == key or not name.endswith((".weight", ".bias")):
            raise ValueError(f"its {key!r} is no mask of a weight or a bias")
        if name.endswith(".bias") or any(part in name for part in family.dense):
            if not bool(tensor.bool().all()):
                raise ValueError(f"its {key!r} removes something that is never pruned")
            continue
        if tensor.ndim != 2 or not bool(((tensor == 0) | (tensor == 1)).all()):
            raise ValueError(f"its {key!r} of shape {tuple(tensor.shape)} is no matrix of zeros and ones")
        masks[family.ours(name)] = tensor.bool()
    return _without_twins(masks)


def _without_twins(masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """BLIP's decoder shares all but its self-attention with the encoder, whose names count."""
    for name in [n for n in masks if n.startswith("text_decoder.") and ".attention." not in n]:
        twin = name.replace("text_decoder.bert.", "text_encoder.", 1)
        if twin not in masks or not masks.pop(name).equal(masks[twin]):
            raise ValueError(f"its mask of {name!r} is not the encoder's, with which it shares the weight")
    return masks


def _solution(masks: dict[str, Tensor], family: Family, hash_: str) -> Solution:
    place = family.places(masks)
    layers = {}
    for name, mask in masks.items():
        try:
            own = place(name)
        except (AssertionError, IndexError, ValueError):
            raise ValueError(f"its layer {name!r} is none of {family.name}'s") from None
        counts = {"kept": count(mask), "total": mask.numel()}
        layers[name] = counts | {"modality": own.modality, "block": own.block}
    kept, total = (sum(layer[what] for layer in layers.values()) for what in ("kept", "total"))
    report = {
        "method": f"released with MULTIFLOW for {family.name}",
        "settings": {},
        "sparsity": {"asked": None, "achieved": 1 - kept / total},
        "kept": kept,
        "total": total,
        "seconds": 0.0,
        "hashes": {"weights": None, "calibration": None, "file": hash_},
        "layers": layers,
    }
    return Solution(masks, {}, report)


def _check_complete(solution: Solution) -> None:
    """Layers are numbered without a gap, and those of one modality have the same parts."""
    parts: dict[str, dict[str, set[str]]] = {}
    numbers: dict[str, set[int]] = {}
    for name, layer in solution.report["layers"].items():
        tower, number = layer["block"].rpartition(".")[::2]
        parts.setdefault(f"{tower} {layer['modality']}", {}).setdefault(layer["block"], set()).add(
            name.removeprefix(layer["block"])
        )
        numbers.setdefault(tower, set()).add(int(number))
    for blocks in parts.values():
        everything = set.union(*blocks.values())
        for block, own in blocks.items():
            if missing := sorted(everything - own):
                raise ValueError(f"it lacks {block}{missing[0]}, which other layers have")
    for tower, own in numbers.items():
        if missing := sorted(set(range(max(own))) - own):
            raise ValueError(f"it lacks {tower}.{missing[0]}")


def _check_model(solution: Solution, model: nn.Module) -> None:
    shapes = {name: tuple(layer.weight.shape) for name, layer in find_layers(model).items()}
    found = {name: tuple(mask.shape) for name, mask in solution.masks.items()}
    for name in sorted(shapes.keys() | found.keys()):
        if shapes.get(name) != found.get(name):
            raise ValueError(f"its mask of {name!r} has shape {found.get(name)}, the model's layer {shapes.get(name)}")
