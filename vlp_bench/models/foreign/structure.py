"""Which weights of a model may go, where they sit, and why the others stay."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from vlp_bench.models.foreign.tree import FUSION, TEXT, VISION, Tree
from vlp_bench.models.linear_layers import linear_weights
from vlp_bench.models.stacks import slice_name, transposed_experts

EMBEDDING, TIED, CONVOLUTION = "embedding", "shares its weight with an embedding", "convolution"
POSITIONS, LEARNED, OTHER = "table of positions", "learned tokens", "no linear layer reads it"
OUTPUT, HEAD, ROUTER, PATCHES = "output embeddings", "head", "router of experts", "patch embedding"
PACKED = "three projections in one matrix"
HEADS = (OUTPUT, HEAD)
POSSIBLE = (*HEADS, ROUTER, PATCHES, PACKED)
"""Reasons that `also` may overrule."""
NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
FROM_PIXELS = ("patch_embed", "patch_dense", "vision_embed_tokens")
"""Beginnings of the names of modules that map the pixels of a patch: Fuyu's and Gemma 4's have names of their own."""
SPEAKING = ("head", "head_linear")
"""Names of linear layers outside all blocks that give logits, wherever they lie: RNN-T's joint.head, Ovis2's."""
PROJECTING = ("siglip_text_model", "siglip2_text_model")
"""Kinds of models whose linear head is a projection of the text to what images have in common with it."""
CLASSIFIERS = ("classifier", "class_predictor", "score", "head", "qa_outputs", "logits")


@dataclass(frozen=True)
class Weight:
    """One parameter of at least two true dimensions.

    Attributes:
        name: the first of its names in the model.
        modality, block: where it sits.
        size: number of weights.
        reason: why it stays dense; empty for one that may be pruned.
        stack: how many matrices it holds, where it is a stack of experts'; 0 for a matrix.
        left: numbers of those that stay dense.
        is_output: whether it gives the logits of words.
    """

    name: str
    modality: str
    block: str
    size: int
    reason: str = ""
    stack: int = 0
    left: tuple[int, ...] = ()
    is_output: bool = False

    @property
    def names(self) -> list[str]:
        """What pruning calls it: its name, or those of the matrices that may go, `experts.up_proj[3]`."""
        if not self.left:
            return [self.name]
        return [slice_name(self.name, number) for number in range(self.stack) if number not in self.left]

    @property
    def matrices(self) -> int:
        """How many may go, unless there is a reason against all."""
        return max(self.stack, 1) - len(self.left)

    @property
    def path(self) -> str:
        """Of the module that holds it."""
        return self.name.rpartition(".")[0]


@dataclass(frozen=True)
class Structure:
    """All matrices of a model; `vectors` counts the numbers in norms, biases and the like."""

    weights: tuple[Weight, ...]
    vectors: int

    @property
    def prunable(self) -> list[Weight]:
        """Those that may go."""
        return [weight for weight in self.weights if not weight.reason]

    @property
    def dense(self) -> list[Weight]:
        """Those that stay."""
        return [weight for weight in self.weights if weight.reason]

    @property
    def modalities(self) -> list[str]:
        """Of what may go, in the order vision, text, fusion."""
        found = {weight.modality for weight in self.prunable}
        return [m for m in (VISION, TEXT, FUSION) if m in found] + sorted(found - {VISION, TEXT, FUSION})

    @property
    def reasons(self) -> dict[str, str]:
        """Names of those that stay, numbers in ranges (layers.0–26) -> why."""
        groups = grouped(self.dense, [weight.name for weight in self.dense])
        return {pattern: weights[0].reason for pattern, weights in groups.items()}

    def leaving(self, reasons: Mapping[str, str]) -> Structure:
        """The same with some of the prunable weights, or matrices of stacks, (name -> reason) left dense."""
        return replace(self, weights=tuple(w if w.reason else _leaving(w, reasons) for w in self.weights))


def _leaving(weight: Weight, reasons: Mapping[str, str]) -> Weight:
    own = {number: reasons.get(slice_name(weight.name, number), "") for number in range(weight.stack)}
    left = tuple(number for number, reason in own.items() if reason or number in weight.left)
    if weight.stack and len(left) == weight.stack:
        return replace(weight, reason=next(reason for reason in own.values() if reason))
    return replace(weight, reason=reasons.get(weight.name, ""), left=left)


def structure_of(
    model: PreTrainedModel,
    *,
    modality: str | None = None,
    prune_heads: bool = False,
    also: Sequence[str] = (),
    leave: Sequence[str] = (),
) -> Structure:
    """The structure of a model of transformers, as its module tree has it.

    Args:
        modality: the only one that is pruned; None: all.
        prune_heads: output embeddings and classifiers may go too, where they share no weight with an embedding.
        also: patterns of names (of weights or modules around them; `*` and `?`) that may go although they would stay.
        leave: patterns of names that stay.

    Raises:
        ValueError: a pattern that fits nothing or what can't be pruned, or a modality that the model has not.
    """
    weights = list(_weights(model))
    if prune_heads:
        weights = [replace(w, reason="" if w.reason in HEADS else w.reason) for w in weights]
    for pattern in also:
        weights = _opened(weights, pattern)
    for pattern in leave:
        weights = _left(weights, pattern)
    vectors = sum(p.numel() for p in model.parameters()) - sum(w.size for w in weights)
    found = Structure(tuple(weights), vectors)
    return found if modality is None else _only(found, modality)


def _only(structure: Structure, modality: str) -> Structure:
    if modality not in structure.modalities:
        raise ValueError(f"modality={modality}: this model has {', '.join(structure.modalities)}")
    others = {w.name: f"not of modality {modality}" for w in structure.prunable if w.modality != modality}
    return structure.leaving(others)


def _fits(weight: Weight, pattern: str) -> bool:
    """Whether a pattern fits the name of a weight or of a module around it."""
    parts = weight.name.split(".")
    return any(fnmatchcase(".".join(parts[:length]), pattern) for length in range(1, len(parts) + 1))


def _opened(weights: list[Weight], pattern: str) -> list[Weight]:
    own = _fitting(weights, pattern, "also")
    if not any(w.reason in ("", *POSSIBLE) for w in own):
        raise ValueError(f"also={pattern}: {own[0].name} can't be pruned: {own[0].reason}")
    return [replace(w, reason="") if w in own and w.reason in POSSIBLE else w for w in weights]


def _left(weights: list[Weight], pattern: str) -> list[Weight]:
    own = _fitting(weights, pattern, "leave")
    return [replace(w, reason=w.reason or f"leave={pattern}") if w in own else w for w in weights]


def _fitting(weights: list[Weight], pattern: str, key: str) -> list[Weight]:
    found = [weight for weight in weights if _fits(weight, pattern)]
    if not found:
        near = difflib.get_close_matches(pattern, [w.name for w in weights], n=2, cutoff=0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(
            f"{key}={pattern}: no weight or module has such a name (vlp-bench model show lists them){hint}"
        )
    return found


def _weights(model: PreTrainedModel) -> Iterator[Weight]:
    tree, why = Tree(model), _Reasons(model)
    for name, parameter in model.named_parameters():
        if sum(size > 1 for size in parameter.shape) > 1 or id(parameter) in why.linear:
            path = name.rpartition(".")[0]
            output = id(parameter) in why.outputs
            modality = TEXT if output and set(tree.towers.values()) != {VISION} else tree.modality(path)
            stack = len(parameter) if parameter.ndim == 3 and transposed_experts(tree.modules[path]) is not None else 0
            reason, block = why(name, parameter), tree.block(path)
            yield Weight(name, modality, block, parameter.numel(), reason, stack, is_output=output)


class _Reasons:
    """Why a parameter stays dense."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.tree = Tree(model)
        modules = self.tree.modules.values()
        self.embeddings = {id(m.weight) for m in modules if isinstance(m, nn.Embedding)}
        self.linear = {id(weight) for m in modules for weight in linear_weights(m) if weight.is_floating_point()}
        self.outputs = {id(w) for own in self.tree.nested.values() for w in _output_embeddings(own)}
        self.heads = list(_heads(self.tree))

    def __call__(self, name: str, parameter: nn.Parameter) -> str:
        path, _, last = name.rpartition(".")
        if id(parameter) in self.linear:
            return self._of_linear(path, last, parameter)
        module = self.tree.modules[path]
        if id(parameter) in self.embeddings:
            return EMBEDDING
        if isinstance(module, nn.modules.conv._ConvNd):
            return CONVOLUTION
        if "pos" in name.lower().replace("compos", ""):
            return POSITIONS
        if parameter.ndim == 3 and transposed_experts(module) is not None:
            return ""
        if parameter.ndim == 3:
            return OTHER if min(parameter.shape) > 1 else LEARNED
        return ROUTER if "router" in type(module).__name__.lower() else OTHER

    def _of_linear(self, path: str, last: str, parameter: nn.Parameter) -> str:
        if id(parameter) in self.embeddings:
            return TIED
        if id(parameter) in self.outputs:
            return OUTPUT
        if any(f"{path}.".startswith(f"{head}.") for head in self.heads):
            return HEAD
        if last == "in_proj_weight":
            return PACKED
        if any(part == "embeddings" or part.startswith(FROM_PIXELS) for part in path.split(".")):
            return PATCHES
        if path.rpartition(".")[2].startswith("rel_pos"):  # LayoutLMv3's, of distances that are counted as one of many
            return POSITIONS
        return ROUTER if self._routes(path) else ""

    def _routes(self, path: str) -> bool:
        """Whether a linear layer, or a module around it, decides which experts see a token: they lie beside it."""
        parts = path.split(".")
        gates = [end for end, part in enumerate(parts) if part.endswith("gate")]
        beside = [n for end in gates for n, _ in self.tree.modules[".".join(parts[:end])].named_children()]
        return any(part.startswith("router") for part in parts) or any("expert" in name for name in beside)


def _output_embeddings(model: PreTrainedModel) -> Iterator[nn.Parameter]:
    """What a model calls so, or shares with its embeddings where its configuration asks for that (FSMT, BLIP)."""
    found = model.get_output_embeddings()
    if isinstance(found, nn.Module):
        yield from found.parameters()
    words = {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Embedding)}
    shared: Any = model._tied_weights_keys
    for name in [name for name, other in shared.items() if other in words] if isinstance(shared, dict) else ():
        yield from (parameter for own, parameter in model.named_parameters() if own == name)


def _heads(tree: Tree) -> Iterator[str]:
    """Paths of what a task has put on a backbone: beside the base model and without repeated layers, or so named."""
    yield from (path for path, module in tree.modules.items() if _is_head(tree, path, module))
    for path, model in tree.nested.items():
        children = {f"{path}.{name}".lstrip("."): child for name, child in model.named_children()}
        beside = [own for own in children if not any(f"{block}.".startswith(f"{own}.") for block in tree.blocks)]
        if model.base_model is not model and not _is_backbone(model):
            yield from (own for own in beside if children[own] is not model.base_model)
        elif "For" in type(model).__name__:
            yield from (own for own in beside if own.endswith(CLASSIFIERS))


def _is_head(tree: Tree, path: str, module: nn.Module) -> bool:
    """Whether a module outside all blocks, with none in it, is called one (Janus' generation_head, MAE's decoder_pred).

    SigLIP's are none: that of its vision tower is no linear layer, and pools; that of its text tower projects.
    """
    name = path.rpartition(".")[2]
    if tree.nested[tree.around(path)[0]].config.model_type in PROJECTING:
        return False
    if not name.endswith(("_head", "_pred")) and not (name in SPEAKING and isinstance(module, nn.Linear)):
        return False
    return not any(f"{path}.".startswith(f"{own}.") or own.startswith(f"{path}.") for own in tree.blocks)


def _is_backbone(model: PreTrainedModel) -> bool:
    """Whether it is called a model alone: what lies beside its base model is no task's (AltCLIP's projection)."""
    name = type(model).__name__
    return name.endswith("Model") and "Head" not in name


def grouped(weights: Sequence[Weight], names: Sequence[str]) -> dict[str, list[Weight]]:
    """The weights by names in which a number that goes from 0 to 26 is written 0–26."""
    groups: dict[str, list[tuple[Weight, str]]] = {}
    for weight, name in zip(weights, names, strict=True):
        groups.setdefault(NUMBER.sub("#", name), []).append((weight, name))
    return {_ranged(key, [n for _, n in own]): [w for w, _ in own] for key, own in groups.items()}


def _ranged(pattern: str, names: Iterable[str]) -> str:
    columns = zip(*(map(int, NUMBER.findall(name)) for name in names), strict=True)
    ranges = iter([_range(sorted(set(numbers))) for numbers in columns])
    return ".".join(next(ranges) if part == "#" else part for part in pattern.split("."))


def _range(numbers: list[int]) -> str:
    first, last = numbers[0], numbers[-1]
    if len(numbers) == last - first + 1:
        return str(first) if first == last else f"{first}–{last}"
    return ",".join(map(str, numbers[:6])) + (",…" if len(numbers) > 6 else "")
