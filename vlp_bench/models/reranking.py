"""How well many texts go with each of some images: what cross-attention reads of an image is computed once for all.

Re-ranking asks every image hundreds of times. At 384 px an image is 577 tokens and a caption some 30, so that the keys
and values of cross-attention, computed anew for every pair, would be most of the work. Nor does a text's attention to
itself in the first layer depend on the image. Tokens of texts lie one after the other, without padding: texts of one
length attend to themselves together, texts of one image to it.
Shape legend: m images, s tokens of an image, b pairs, t tokens of a text, n tokens of all texts, d width, h heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertLayer

Score = Callable[[Tensor, Tensor | None, Tensor], Tensor]
"""(b, t, d) texts, (b, t) attention, (b,) which image each is shown with -> (b,) how well they go together."""


class SeenImages:
    """Images as the layers of a model in eval mode see them.

    Args:
        layers: BERT layers that all cross-attend; their dropout and gradients play no part here.
        states: (m, s, d) what they attend to, all tokens of it.
    """

    def __init__(self, layers: Iterable[nn.Module], states: Tensor) -> None:
        self.layers: list[Any] = [layer for layer in layers if isinstance(layer, BertLayer)]
        cross = [layer.crossattention.self for layer in self.layers]
        self.keys = [_split(each.key(states), each) for each in cross]  # (m, h, s, d/h) a layer
        self.values = [_split(each.value(states), each) for each in cross]

    def fuse(self, x: Tensor, atts: Tensor | None, image: Tensor) -> Tensor:
        """(b, t, d) of `asking` through all layers, each text attending to its `image` (b,): (b, d), the first token.

        Heads read the first token alone, so the last layer is computed for it alone. atts (b, t): 1 = real.
        """
        texts = Texts.of(atts, x.shape)
        image = image.cpu()[texts.by_length]
        every, firsts = ByImage.of(image.repeat_interleave(texts.counts)), ByImage.of(image)
        x = x.flatten(0, 1)[texts.rows.to(x.device)]
        for number, layer in enumerate(self.layers[:-1]):
            x = self._see(number, _attended(layer, x, texts) if number else x, every)
        first = torch.cat([group[:, 0] for group in texts.groups(x)])
        if len(self.layers) > 1:
            own = self.layers[-1].attention
            first = own.output(_first_attends(own.self, x, texts), first)
        return self._see(-1, first, firsts)[texts.by_length.argsort().to(x.device)]

    def _see(self, number: int, x: Tensor, order: ByImage) -> Tensor:
        """(n, d) tokens, each of its image, through cross-attention and the rest of a layer: (n, d)."""
        layer, keys, values = self.layers[number], self.keys[number], self.values[number]
        cross = layer.crossattention
        asks = cross.self.query(x)[order.there.to(x.device)].split(order.counts)
        seen = [
            F.scaled_dot_product_attention(_split(own[None], cross.self), keys[image, None], values[image, None])
            for image, own in zip(order.images, asks, strict=True)
        ]
        found = torch.cat([_joined(each)[0] for each in seen])[order.back.to(x.device)]
        return layer.feed_forward_chunk(cross.output(found, x))


def asking(layer: Any, x: Tensor, atts: Tensor | None) -> Tensor:
    """Texts (b, t, d) after they attended to themselves in the first layer, what asks the images: (b, t, d)."""
    texts = Texts.of(atts, x.shape)
    rows = texts.rows.to(x.device)
    asks = torch.zeros_like(x).flatten(0, 1)
    asks[rows] = _attended(layer, x.flatten(0, 1)[rows], texts).to(asks.dtype)
    return asks.view_as(x)


@dataclass(frozen=True)
class Texts:
    """Where the tokens of texts lie: texts in ascending order of their lengths, one after the other.

    by_length (b,): that order. counts (b,): tokens of each, in that order. rows (n,): the place of every token in texts
    with padding. lengths: every length and how many texts have it.
    """

    by_length: Tensor
    counts: Tensor
    rows: Tensor
    lengths: list[tuple[int, int]]

    @classmethod
    def of(cls, atts: Tensor | None, shape: torch.Size) -> Texts:
        """From attention (b, t); without one all tokens are real."""
        real = torch.ones(shape[:2], dtype=torch.bool) if atts is None else atts.bool().cpu()
        counts, by_length = real.sum(1).sort(stable=True)
        rows = torch.arange(real.numel()).view_as(real)[by_length][real[by_length]]
        lengths, texts = counts.unique_consecutive(return_counts=True)
        return cls(by_length, counts, rows, list(zip(lengths.tolist(), texts.tolist(), strict=True)))

    def groups(self, x: Tensor) -> list[Tensor]:
        """(n, d) of all tokens -> (texts, length, d) of each length."""
        parts = x.split([length * texts for length, texts in self.lengths])
        return [part.unflatten(0, (-1, length)) for part, (length, _) in zip(parts, self.lengths, strict=True)]


@dataclass(frozen=True)
class ByImage:
    """An order in which tokens of one image lie together: `there`, and `back`. counts: tokens of each of `images`."""

    there: Tensor
    back: Tensor
    images: list[int]
    counts: list[int]

    @classmethod
    def of(cls, image: Tensor) -> ByImage:
        """From the image of every token (n,)."""
        there = image.argsort(stable=True)
        images, counts = image[there].unique_consecutive(return_counts=True)
        return cls(there, there.argsort(), images.tolist(), counts.tolist())


def _attended(layer: Any, x: Tensor, texts: Texts) -> Tensor:
    """(n, d) tokens after each attended to all of its text: (n, d)."""
    own = layer.attention.self
    groups = [texts.groups(project(x)) for project in (own.query, own.key, own.value)]
    seen = [
        F.scaled_dot_product_attention(_split(q, own), _split(k, own), _split(v, own))
        for q, k, v in zip(*groups, strict=True)
    ]
    return layer.attention.output(torch.cat([_joined(each).flatten(0, 1) for each in seen]), x)


def _first_attends(own: Any, x: Tensor, texts: Texts) -> Tensor:
    """(b, d) what the first token of each text attends to, without keys and values of all tokens.

    A score is q · (K x + b) = (Kᵀ q) · x and a constant, and the mean of V x + b is V (mean of x) + b.
    """
    heads = own.num_attention_heads
    key, value = (layer.weight.unflatten(0, (heads, -1)) for layer in (own.key, own.value))  # (h, d/h, d)
    found = []
    for group in texts.groups(x):
        asks = own.query(group[:, 0]).unflatten(1, (heads, -1))
        asks = torch.einsum("bhe,hed->bhd", asks, key)
        found.append(F.scaled_dot_product_attention(asks, group, group, scale=key.shape[1] ** -0.5))
    seen = torch.einsum("bhd,hed->bhe", torch.cat(found), value).flatten(1)
    return seen if own.value.bias is None else seen + own.value.bias


def _split(x: Tensor, attention: Any) -> Tensor:
    """(b, t, d) -> (b, h, t, d / h)."""
    return x.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)


def _joined(x: Tensor) -> Tensor:
    """(b, h, t, d / h) -> (b, t, d)."""
    return x.transpose(1, 2).flatten(2)
