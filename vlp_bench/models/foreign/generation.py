"""What a model says after a prompt with an image: batches padded on the left, with a cache, without drawing lots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

SIGNS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id")
OTHERWISE_PADDED = ("blip", "git", "kosmos-2")
"""Kinds whose `generate` takes no prompts of different lengths."""


@dataclass(frozen=True)
class Generation:
    """How a model is asked to go on.

    Args:
        beams: of beam search; 1: always the likeliest next word.
        max_new: so many tokens at most.
        length_penalty: of beam search: a sequence's log-likelihood is divided by its length to this power.
    """

    beams: int = 1
    max_new: int = 10
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.beams < 1 or self.max_new < 1:
            raise ValueError(f"beams={self.beams}, max_new={self.max_new}: at least 1 of each is needed")


def answers(model: PreTrainedModel) -> bool:
    """Whether it says words about an image and a text: BLIP-2, LLaVA, Qwen-VL, SmolVLM and their kind."""
    takes = signature(model.forward).parameters
    speaks = model.can_generate() or hasattr(getattr(model, "language_model", None), "generate")
    return speaks and {"pixel_values", "input_ids"} <= takes.keys() and model.config.model_type not in OTHERWISE_PADDED


@torch.inference_mode()
def continued(model: PreTrainedModel, batch: Mapping[str, Tensor], how: Generation) -> Tensor:
    """(b, t) int64: the ids that follow prompts (padded on the left); a row that ends early is filled up with padding.

    What the model's folder says of sampling, penalties and lengths is left aside; only its special tokens count.
    """
    given = {name: tensor.to(model.device) for name, tensor in batch.items()}
    told = {"num_beams": how.beams, "max_new_tokens": how.max_new, "do_sample": False, "use_cache": True}
    speaker: Any = model
    with _only_signs(model):
        ids: Tensor = speaker.generate(
            **given, **told, **({"length_penalty": how.length_penalty} if how.beams > 1 else {})
        )
    prompt = given["input_ids"]
    begins = ids.shape[1] >= prompt.shape[1] and bool(ids[:, : prompt.shape[1]].eq(prompt).all())
    return ids[:, prompt.shape[1] :] if begins else ids


@contextmanager
def _only_signs(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the model and the models in it go on by their special tokens and nothing else."""
    modules: list[Any] = [
        own for own in model.modules() if isinstance(getattr(own, "generation_config", None), GenerationConfig)
    ]
    before = [module.generation_config for module in modules]
    for module in modules:
        module.generation_config = GenerationConfig(**_signs(module))
    try:
        yield
    finally:
        for module, old in zip(modules, before, strict=True):
            module.generation_config = old


def _signs(module: Any) -> dict[str, Any]:
    found = {name: getattr(module.generation_config, name, None) for name in SIGNS}
    if found["pad_token_id"] is None:  # else `generate` says at every batch that it took this one
        ends = found["eos_token_id"]
        found["pad_token_id"] = ends[0] if isinstance(ends, list) else ends
    return found
