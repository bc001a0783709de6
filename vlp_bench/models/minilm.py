"""MiniLM, a small sentence encoder with real pre-trained weights: BERT, the mean of its tokens, the cosine.

Source: Wang et al., MiniLM (NeurIPS 2020); all-MiniLM-L6-v2, trained on pairs of texts as in Reimers and Gurevych,
Sentence-BERT (EMNLP 2019). Shape legend: b pairs, t tokens, e width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from vlp_bench.batch import Batch, Place
from vlp_bench.models.checkpoints.hub import read_pretrained
from vlp_bench.models.losses import contrastive

TEMPERATURE = 0.05
"""What cosines were divided by when all-MiniLM-L6-v2 was trained."""


class MiniLM(nn.Module):
    """transformers' BertModel as an encoder of sentences; a configuration builds one with random weights."""

    def __init__(self, bert: BertModel | BertConfig, *, attention: str = "sdpa") -> None:
        super().__init__()
        self.bert = bert if isinstance(bert, BertModel) else _new(bert, attention)
        self.bert.pooler = None  # the mean of the tokens takes its place

    @property
    def adapter(self) -> MiniLMAdapter:
        """What pruning asks of this model."""
        return MiniLMAdapter()

    def embed_texts(self, ids: Tensor, atts: Tensor) -> Tensor:
        """(b, t) token ids and attention (1 = token) -> (b, e) of length 1, float32."""
        states = self.bert(input_ids=ids, attention_mask=atts).last_hidden_state
        weight = atts[..., None].to(states.dtype)
        return F.normalize(((states * weight).sum(1) / weight.sum(1)).float(), dim=-1)

    def embed_pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(b, e) names and (b, e) descriptions of a batch of 2 b texts, which alternate."""
        assert batch.text_ids is not None and batch.text_atts is not None, "a batch of pairs has texts"  # noqa: PT018
        embeds = self.embed_texts(batch.text_ids, batch.text_atts)
        return embeds[0::2], embeds[1::2]

    def contrastive_losses(self, batch: Batch) -> dict[str, Tensor]:
        """`contrastive`: both directions' cross entropy over the batch."""
        names, texts = self.embed_pairs(batch)
        return {"contrastive": contrastive(names, texts, torch.tensor(TEMPERATURE, device=names.device))}


def _new(config: BertConfig, attention: str) -> BertModel:
    told: dict[str, Any] = config.to_diff_dict() | {"attn_implementation": attention}
    return BertModel(BertConfig(**told))


def build_minilm(weights: Path | str, attention: str = "sdpa") -> MiniLM:
    """A MiniLM from a folder in the hub's layout, `pkg://package/folder` or `hf:owner/name`; nothing is unpickled."""
    return MiniLM(read_pretrained(BertModel, weights, attention)).eval()


@dataclass(frozen=True)
class MiniLMAdapter:
    """A sentence encoder's answers to the six questions of pruning (see `vlp_bench.pruning`)."""

    def prunable(self, model: nn.Module) -> list[str]:
        """The linear weights of all layers; word, position and type tables stay dense."""
        return [name for name, p in model.named_parameters() if ".encoder.layer." in name and p.ndim == 2]

    def place(self, name: str) -> Place:
        """Text, and the layer: bert.encoder.layer.3."""
        return Place("text", ".".join(name.split(".")[:4]))

    def encode(self, model: MiniLM, batch: Batch) -> None:
        """Names and descriptions in one pass, without gradients."""
        with torch.no_grad():
            model.embed_pairs(batch)

    def loss(self, model: MiniLM, batch: Batch) -> Tensor:
        """The contrastive loss it was trained with."""
        return model.contrastive_losses(batch)["contrastive"]

    def token_mask(self, batch: Batch, name: str, tokens: int) -> Tensor | None:
        """(2 b, t) bool, real tokens."""
        assert batch.text_atts is not None, "a batch of pairs has texts"
        return batch.text_atts.bool()

    def rows(self, batch: Batch) -> int:
        """Texts in the batch."""
        return batch.examples
