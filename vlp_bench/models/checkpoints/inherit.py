"""What a task model takes over from the pre-trained model: weights, and with their names the masks."""

from __future__ import annotations

from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel


class Heir(Protocol):
    """A task model that says where each of its parameters comes from."""

    def pretrained_name(self, name: str) -> str:
        """The pre-trained model's name of a parameter."""
        ...


AnyHeir = TypeVar("AnyHeir", bound=nn.Module)


@torch.no_grad()
def filled_from(heir: AnyHeir, model: nn.Module) -> AnyHeir:
    """The task model with every parameter copied from the pre-trained model, in the same mode."""
    for name, parameter in heir.named_parameters():
        parameter.copy_(model.get_parameter(heir.pretrained_name(name)))  # pyright: ignore[reportCallIssue]
    return heir.train(model.training)


def inherited(heir: nn.Module) -> dict[str, str]:
    """Every linear weight of a task model but its word head's -> the pre-trained model's name of it.

    What pruning masked under the second name is pruned under the first.
    """
    linear = {id(m.weight) for n, m in heir.named_modules() if isinstance(m, nn.Linear) and ".cls." not in n}
    names = [name for name, parameter in heir.named_parameters() if id(parameter) in linear]
    return {name: heir.pretrained_name(name) for name in names}  # pyright: ignore[reportCallIssue]


def blip_source(name: str) -> str:
    """What a BLIP's decoder shares with its encoder goes by the encoder's name."""
    shared = name.startswith("text_decoder.bert.") and ".attention." not in name
    return name.replace("text_decoder.bert.", "text_encoder.", 1) if shared else name


def clip_states(vision: CLIPVisionModel, images: Tensor) -> Tensor:
    """(m, 3, h, w) -> (m, 1 + n, d) through all layers, and the last norm over all tokens."""
    x = vision.pre_layrnorm(vision.embeddings(images))
    for layer in vision.encoder.layers:
        x = layer(x, None)
    return vision.post_layernorm(x)
