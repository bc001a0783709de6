"""BLIP's mixture of encoder and decoder (MED): BERT's layers, each attending to an image (or question) if one is given.

Source: Li et al., BLIP (ICML 2022), section 3.1 and the released code. Encoder and decoder share everything but
self-attention. Shape legend: b texts, t tokens, d width, s states attended to, k = t and cached tokens, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from transformers import BertConfig
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.models.bert.modeling_bert import BertLayer, BertOnlyMLMHead

from vlp_bench.models.attention_masks import kernel_mask, key_mask
from vlp_bench.models.xvlm.towers import init_linear, inner_width


def new_cache() -> EncoderDecoderCache:
    """An empty cache of keys and values for `run_layers`: of tokens so far, and of the states attended to."""
    return EncoderDecoderCache(DynamicCache(), DynamicCache())


def causal_mask(atts: Tensor | None, new: int, total: int, attention: str, device: torch.device) -> Tensor | None:
    """What the last `new` of `total` tokens see: themselves and what came before, of the real tokens `atts` (b, k).

    None where they see everything, so that the caller need not care about the kernel. (b or 1, 1, new, total).
    """
    if new == 1 and atts is None:
        return None
    visible = torch.ones(new, total, dtype=torch.bool, device=device).tril(total - new)[None, None]
    if atts is not None:
        visible = visible & atts.bool()[:, None, None, :]
    return kernel_mask(visible, attention)


def run_layers(
    layers: Iterable[nn.Module],
    x: Tensor,
    atts: Tensor | None,
    states: Tensor | None = None,
    state_atts: Tensor | None = None,
    *,
    attention: str,
    causal: bool = False,
    cache: EncoderDecoderCache | None = None,
) -> Tensor:
    """(b, t, d) embedded tokens through BERT layers; those that can attend to `states` (b, s, d), where given.

    atts (b, k), state_atts (b, s): 1 = real, None = all are. causal: a token sees none after it. `cache` holds what
    earlier tokens left and takes what these leave.
    """
    if causal:
        total = x.shape[1] + (0 if cache is None else cache.get_seq_length())
        mask = causal_mask(atts, x.shape[1], total, attention, x.device)
    else:
        mask = key_mask(atts, attention)
    state_mask = key_mask(state_atts, attention)
    for layer in layers:
        x = layer(x, mask, states, state_mask, cache)  # by place: transformers 5.24 renamed the last
    return x


class WordEmbeddings(nn.Module):
    """Words and positions, without BERT's token types."""

    def __init__(self, bert: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(bert.vocab_size, bert.hidden_size, padding_idx=bert.pad_token_id)
        self.position_embeddings = nn.Embedding(bert.max_position_embeddings, bert.hidden_size)
        self.LayerNorm = nn.LayerNorm(bert.hidden_size, eps=bert.layer_norm_eps)
        self.dropout = nn.Dropout(bert.hidden_dropout_prob)
        for table in (self.word_embeddings, self.position_embeddings):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, input_ids: Tensor, past: int = 0) -> Tensor:
        """(b, t) ids, after so many earlier tokens -> (b, t, d)."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device) + past
        return self.dropout(self.LayerNorm(self.word_embeddings(input_ids) + self.position_embeddings(positions)))


class _Layers(nn.Module):
    """A holder of layers, for the released parameter names."""

    def __init__(self, bert: BertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(BertLayer(bert, layer_idx=i) for i in range(bert.num_hidden_layers))
        for layer in self.layer:
            layer.attention.self.is_causal = False  # pyright: ignore  # masks are always given


class TextTower(nn.Module):
    """BERT whose every layer can attend to other states."""

    def __init__(self, bert: BertConfig) -> None:
        super().__init__()
        self.attention = bert._attn_implementation or "sdpa"
        self.embeddings = WordEmbeddings(bert)
        self.encoder = _Layers(bert).apply(init_linear)

    def forward(
        self,
        ids: Tensor,
        atts: Tensor | None = None,
        states: Tensor | None = None,
        state_atts: Tensor | None = None,
        *,
        causal: bool = False,
        cache: EncoderDecoderCache | None = None,
    ) -> Tensor:
        """(b, t) ids -> (b, t, d); see `run_layers`. Without `states`, cross-attention is skipped."""
        x = self.embeddings(ids, 0 if cache is None else cache.get_seq_length())
        return run_layers(
            self.encoder.layer, x, atts, states, state_atts, attention=self.attention, causal=causal, cache=cache
        )


class TextDecoder(nn.Module):
    """A causal text tower that predicts the next word; the word decoder is the word embeddings."""

    def __init__(self, bert: BertConfig) -> None:
        super().__init__()
        self.bert = TextTower(bert)
        self.cls = BertOnlyMLMHead(bert).apply(init_linear)
        self.cls.predictions.decoder.bias = self.cls.predictions.bias
        self.tie_words()

    def tie_words(self) -> None:
        """The word decoder's weight becomes the embeddings' own."""
        self.cls.predictions.decoder.weight = self.bert.embeddings.word_embeddings.weight

    def forward(
        self,
        ids: Tensor,
        atts: Tensor | None,
        states: Tensor,
        state_atts: Tensor | None = None,
        *,
        cache: EncoderDecoderCache | None = None,
    ) -> Tensor:
        """(b, t) ids -> (b, t, v) float32 logits of the word after each."""
        return self.cls(self.bert(ids, atts, states, state_atts, causal=True, cache=cache)).float()


def tie_med(encoder: TextTower, decoder: TextDecoder) -> None:
    """The decoder reads the encoder's parameters, all but those of self-attention (BLIP, section 3.1)."""
    for name, parameter in list(encoder.named_parameters(remove_duplicate=False)):
        if ".attention." not in name:
            path, _, leaf = name.rpartition(".")
            setattr(decoder.bert.get_submodule(path), leaf, parameter)
    decoder.tie_words()


def bert_config(
    *,
    vocab_size: int,
    width: int,
    layers: int,
    heads: int,
    mlp_ratio: float,
    eps: float,
    max_positions: int,
    dropout: float,
    attention: str,
) -> BertConfig:
    """The settings of a text tower; a new object for each, for transformers shares and edits them."""
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=inner_width(mlp_ratio, width),
        layer_norm_eps=eps,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=max_positions,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        is_decoder=True,
        add_cross_attention=True,
        attn_implementation=attention,  # pyright: ignore[reportCallIssue]
    )
