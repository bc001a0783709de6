"""How well many texts go with each of some images: what cross-attention reads of an image is computed once for all.

Re-ranking asks every image hundreds of times. At 384 px an image is 577 tokens and a caption some 30, so that the keys
and values of cross-attention, computed anew for every pair, would be most of the work.
Shape legend: m images, s tokens of an image, b pairs, t tokens of a text, d width, h heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertLayer

from vlp_bench.models.attention_masks import key_mask

Score = Callable[[Tensor, Tensor | None, Tensor], Tensor]
"""(b, t, d) texts, (b, t) attention, (b,) which image each is shown with -> (b,) how well they go together."""


class SeenImages:
    """Images as the layers of a model in eval mode see them.

    Args:
        layers: BERT layers that all cross-attend; their dropout and gradients play no part here.
        states: (m, s, d) what they attend to, all tokens of it.
    """

    def __init__(self, layers: Iterable[nn.Module], states: Tensor) -> None:
        self.layers = [layer for layer in layers if isinstance(layer, BertLayer)]
        cross = [layer.crossattention.self for layer in self.layers]
        self.keys = [_split(each.key(states), each.num_attention_heads) for each in cross]  # (m, h, s, d/h) a layer
        self.values = [_split(each.value(states), each.num_attention_heads) for each in cross]

    def fuse(self, x: Tensor, atts: Tensor | None, image: Tensor) -> Tensor:
        """(b, t, d) through all layers, each text attending to its `image` (b,): (b, d), the first token at the end.

        Heads read the first token alone, so the last layer is computed for it alone. atts (b, t): 1 = real.
        """
        mask = key_mask(atts, "sdpa")
        for number, layer in enumerate(self.layers):
            own, cross = layer.attention, layer.crossattention
            heads = own.self.num_attention_heads
            asks = x[:, :1] if layer is self.layers[-1] else x
            q, k, v = own.self.query(asks), own.self.key(x), own.self.value(x)
            seen = F.scaled_dot_product_attention(_split(q, heads), _split(k, heads), _split(v, heads), mask)
            asks = own.output(seen.transpose(1, 2).flatten(2), asks)
            q = _split(cross.self.query(asks), cross.self.num_attention_heads)
            seen = F.scaled_dot_product_attention(q, self.keys[number][image], self.values[number][image])
            x = layer.feed_forward_chunk(cross.output(seen.transpose(1, 2).flatten(2), asks))
        return x[:, 0]


def _split(x: Tensor, heads: int) -> Tensor:
    """(b, t, d) -> (b, h, t, d / h)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
