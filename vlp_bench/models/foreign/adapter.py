"""The six answers of any model of transformers, read from its module tree and its batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from vlp_bench.batch import Place
from vlp_bench.models.foreign import token_masks
from vlp_bench.models.foreign.losses import no_loss, with_labels, with_targets
from vlp_bench.models.foreign.structure import Structure, Weight, structure_of
from vlp_bench.models.foreign.tree import AUDIO, TEXT, VISION, Tree, is_cross, reads_other_side
from vlp_bench.models.key_value_cache import no_cache

IMAGE_FIRST = ("git",)
TEXT_FIRST = ("vilt", "visual_bert", "layoutlmv2", "layoutlmv3")
"""Models whose layers read an image's tokens before the text's, or behind them, which no tree tells."""


class TransformersAdapter:
    """What pruning asks of a model, for every model of transformers. A batch is a mapping of its keyword arguments.

    Args:
        model: the model; `prunable` and the other answers are about this one.
        modality: the only one that is pruned; None: all.
        prune_heads: output embeddings and classifiers are pruned too.
        also: patterns of names that are pruned although they would stay.
        leave: patterns of names that stay.

    Raises:
        ValueError: no model of transformers, a pattern that fits nothing, a modality that the model has not.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        modality: str | None = None,
        prune_heads: bool = False,
        also: Sequence[str] = (),
        leave: Sequence[str] = (),
    ) -> None:
        if not isinstance(model, PreTrainedModel):
            raise ValueError(f"{type(model).__name__} is no model of transformers: give an adapter of your own")
        self.tree = Tree(model)
        self.structure: Structure = structure_of(
            model, modality=modality, prune_heads=prune_heads, also=also, leave=leave
        )
        self._weights = {weight.name: weight for weight in self.structure.weights}
        self._patch = getattr(getattr(model.config, "vision_config", model.config), "patch_size", None)
        self._takes = signature(model.forward).parameters
        self._no_cache = no_cache(model)
        self._shape: torch.Size | None = None  # of what reaches the linear layer that is being called
        self._prepared: tuple[Any, Mapping[str, Any]] = (None, {})

    def leave(self, reasons: Mapping[str, str]) -> None:
        """Leave some of the prunable weights (name -> reason) dense from now on."""
        self.structure = self.structure.leaving(reasons)

    def prunable(self, model: nn.Module) -> list[str]:
        """Every linear weight but those of `structure.dense`."""
        return [name for weight in self.structure.prunable for name in weight.names]

    def place(self, name: str) -> Place:
        """Modality and block, see `tree`."""
        weight = self._weight(name)
        return Place(weight.modality, weight.block)

    def encode(self, model: nn.Module, batch: Mapping[str, Any]) -> None:
        """One forward pass, without labels where the model needs none."""
        given = dict(self._with_targets(batch))
        if not getattr(self.tree.model.config, "is_encoder_decoder", False):
            given.pop("labels", None)
        if "logits_to_keep" in self._takes and "labels" not in given and not self._prunes_output:
            given["logits_to_keep"] = 1  # logits of a long text fill the memory, and no one looks at them
        part = _tower(model, given)
        with torch.no_grad(), self._seeing_shapes(model):
            part(**(self._no_cache | given if part is model else given))

    def loss(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        """The model's own loss: with the batch's labels, the next words, or between images and texts.

        Raises:
            ValueError: the model has none for such a batch.
        """
        given = self._no_cache | dict(with_labels(self.tree.model, self._with_targets(batch)))
        found = getattr(model(**given), "loss", None)
        if found is None:
            raise no_loss(self.tree.model, batch)
        return found

    def token_mask(self, batch: Mapping[str, Any], name: str, tokens: int) -> Tensor | None:
        """The tokens that are no padding, see `token_masks`; None where all count or there are none.

        Raises:
            ValueError: it can't be known which are padding.
        """
        weight, given = self._weight(name), self._with_targets(batch)
        mask = self._mask(weight, given, tokens)
        kind, time_first = self._kind(weight.path), self._reads_time_first(weight.path)
        length = tokens if not time_first else 0 if self._shape is None else self._shape[0]
        if kind in token_masks.FILLING and "input_ids" in given and not self.tree.in_decoder(weight.path):
            mask = token_masks.filled(mask, length, given["input_ids"])
        if time_first and mask is not None:
            mask = mask.T
        if weight.stack:  # experts may get a token several times, or in another order: who watches them fits it
            return None if mask is None or mask.all() else mask
        return token_masks.fitted(mask, tokens, self._shape, name)

    def rows(self, batch: Mapping[str, Any]) -> int:
        """Texts, or images where there are no texts."""
        key = next((key for key in ("input_ids", "pixel_values") if key in batch), next(iter(batch)))
        return len(batch[key])

    def _weight(self, name: str) -> Weight:
        """That of a name, or the stack that a matrix's name, `experts.up_proj[3]`, is of."""
        return self._weights[name.partition("[")[0]]

    def _mask(self, weight: Weight, batch: Mapping[str, Any], tokens: int) -> Tensor | None:
        path = weight.path
        tower = self.tree.tower(path)
        if "qformer" in path:
            return None if self._reads_queries(path) else self._of_queries(batch, tokens)
        if tower == VISION:
            return None if self.tree.is_connector(path) else token_masks.of_patches(batch, self._patch)
        if tower == AUDIO:
            return token_masks.of_sounds(batch)
        joint = self.tree.block(path) in self.tree.blocks or weight.modality == TEXT
        if self.tree.is_connector(path) or (tower is None and not joint):
            return None  # what is joint reads images and texts in one row
        if reads_other_side(path):
            answers = self.tree.in_decoder(path) and "input_ids" in batch
            masked = answers or self.tree.modality(path) == TEXT or "flattened_patches" in batch
            return token_masks.of_text(batch) if masked else None
        if tower is None and self.tree.model.config.model_type in IMAGE_FIRST:
            return token_masks.after_images(token_masks.of_text(batch), tokens)
        if tower is None and self.tree.model.config.model_type in TEXT_FIRST and token_masks.is_full(batch):
            return token_masks.before_images(token_masks.of_text(batch), tokens)
        return token_masks.of_decoder(batch) if self.tree.in_decoder(path) else token_masks.of_text(batch)

    def _kind(self, path: str) -> str:
        """The type of the innermost model around a path."""
        return self.tree.nested[self.tree.around(path)[0]].config.model_type

    def _reads_time_first(self, path: str) -> bool:
        """Whether a layer reads (tokens, rows, width)."""
        part = token_masks.TIME_FIRST.get(self._kind(path))
        return part is not None and part in f"{path}."

    def _of_queries(self, batch: Mapping[str, Any], tokens: int) -> Tensor | None:
        """The text of a Q-Former is an instruction (InstructBLIP), or the model's own where nothing else reads it."""
        own = None if TEXT in self.tree.towers.values() else batch.get("attention_mask")
        queries = int(getattr(self.tree.model.config, "num_query_tokens", 0))
        return token_masks.of_queries(batch.get("qformer_attention_mask", own), tokens, queries)

    @staticmethod
    def _reads_queries(path: str) -> bool:
        """Whether a layer of a Q-Former reads queries or the image alone."""
        return is_cross(path) or "_query." in path

    @property
    def _prunes_output(self) -> bool:
        return any(weight.is_output for weight in self.structure.prunable)

    def _with_targets(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """The batch with what a decoder is to say; the last answer is remembered."""
        if self._prepared[0] is not batch:
            self._prepared = (batch, with_targets(self.tree.model, batch))
        return self._prepared[1]

    @contextmanager
    def _seeing_shapes(self, model: nn.Module) -> Iterator[None]:
        """Notes the shape of what reaches a linear layer before anybody else looks at it."""

        def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._shape = (args[0] if args else next(iter(kwargs.values()))).shape

        linear = [module for module in model.modules() if isinstance(module, nn.Linear | Conv1D)]
        handles = [m.register_forward_pre_hook(see, prepend=True, with_kwargs=True) for m in linear]
        try:
            yield
        finally:
            self._shape = None
            for handle in handles:
                handle.remove()


def _tower(model: Any, batch: Mapping[str, Any]) -> Callable[..., Any]:
    """The model, or of one with a tower each for images and texts (CLIP, SigLIP) the part that a batch is for."""
    towers = {"pixel_values": "get_image_features", "input_ids": "get_text_features"}
    given = [part for name, part in towers.items() if name in batch]
    return (
        getattr(model, given[0]) if len(given) == 1 and all(hasattr(model, part) for part in towers.values()) else model
    )
