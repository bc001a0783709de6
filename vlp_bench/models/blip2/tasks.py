"""What BLIP-2 is tested as, besides the model it is pruned as: captioner and retriever, with a bridge of their own.

ECoFLaP (Sung et al., ICLR 2024) prunes the pre-trained model and puts its vision transformer (and language model) into
models whose Q-Former was fine-tuned on COCO. Shape legend: m images, p pairs, n tokens of an image, q queries, t tokens
of a text, d width of the vision transformer, e embedding width.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    PreTrainedTokenizerBase,
)

from vlp_bench.models.blip2.model import BLIP2
from vlp_bench.models.checkpoints.hub import read_pretrained
from vlp_bench.models.checkpoints.locations import located
from vlp_bench.models.reranking import Score

BRIDGE = ("qformer.", "query_tokens", "language_projection.", "vision_model.post_layernorm.")
"""What a fine-tuned model keeps of its own; LAVIS counts the last norm of the images to the bridge."""


def language_tokenizer(weights: Path | str) -> PreTrainedTokenizerBase:
    """The tokenizer beside a BLIP-2's weights; OPT's pads on the left, for it goes on with a prompt.

    ValueError if it is not there. Nothing in the folder is executed.
    """
    folder = located(weights)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        raise ValueError(f"{weights}: no tokenizer.json in {folder}; give a folder as the hub has it, or hf:owner/name")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if about.get("text_config", {}).get("model_type") == "opt":
        tokenizer.padding_side = "left"
    return tokenizer


def with_bridge(model: BLIP2, *, weights: Path | str, attention: str = "sdpa") -> BLIP2:
    """The (pruned) model with the Q-Former and projection of another BLIP-2, from a folder in the hub's layout."""
    _copy(read_pretrained(Blip2ForConditionalGeneration, weights, attention), model.net, BRIDGE)
    return model


@torch.no_grad()
def _copy(source: nn.Module, target: nn.Module, parts: tuple[str, ...]) -> None:
    """Parameters whose names start with one of `parts`."""
    for name, parameter in target.named_parameters():
        if name.startswith(parts):
            parameter.copy_(source.get_parameter(name))


class BLIP2Retriever(nn.Module):
    """BLIP-2's first stage with a pruned vision transformer: cosine of the best query, and the matching head.

    An image is kept as the states of its tokens and, after them, the features of its queries, filled up with zeros to
    the same width; a text as its ids and its feature (the Q-Former reads it anew with every image).
    """

    def __init__(self, net: Blip2ForImageTextRetrieval) -> None:
        super().__init__()
        self.net = net
        self.queries, self.embed_dim = net.query_tokens.shape[1], net.vision_projection.out_features

    @classmethod
    def of(cls, model: BLIP2, *, weights: Path | str, attention: str = "sdpa") -> BLIP2Retriever:
        """The retriever in a folder of the hub's layout, its images read by the (pruned) model's vision transformer."""
        made = cls(read_pretrained(Blip2ForImageTextRetrieval, weights, attention))
        last = made.net.vision_model.post_layernorm
        made.net.vision_model = model.net.vision_model
        made.net.vision_model.post_layernorm = last
        return made.eval()

    def encode_image(self, images: Tensor) -> Tensor:
        """(m, 3, h, w) -> (m, n + q, d)."""
        states = self.net.vision_model(pixel_values=images).last_hidden_state
        queries = self.net.query_tokens.expand(len(images), -1, -1)
        read = self.net.qformer(query_embeds=queries, encoder_hidden_states=states).last_hidden_state
        features = F.normalize(self.net.vision_projection(read), dim=-1)
        return torch.cat([states, F.pad(features, (0, states.shape[2] - self.embed_dim))], dim=1)

    def project_image(self, states: Tensor) -> Tensor:
        """(m, n + q, d) -> (m, q, e) of length 1."""
        return states[:, -self.queries :, : self.embed_dim]

    def encode_text(self, ids: Tensor, atts: Tensor | None) -> Tensor:
        """(t, l) BERT's ids -> (t, l, 1 + e): ids, and at every token the text's feature."""
        words = self.net.embeddings(input_ids=ids)
        read = self.net.qformer(query_embeds=words, query_length=0, attention_mask=atts).last_hidden_state
        feature = F.normalize(self.net.text_projection(read[:, 0]), dim=-1)
        return torch.cat([ids[..., None].float(), feature[:, None].expand(-1, ids.shape[1], -1)], dim=-1)

    def project_text(self, texts: Tensor) -> Tensor:
        """(t, l, 1 + e) -> (t, e) of length 1."""
        return texts[:, 0, 1:]

    def asks(self, texts: Tensor, atts: Tensor | None) -> Tensor:
        """What a `matcher` is given of each text: as `encode_text` has it."""
        return texts

    def matcher(self, image_states: Tensor) -> Score:
        """Images (m, n + q, d) -> a function of texts and which image each is held against: logit plus best cosine."""
        states, features = image_states[:, : -self.queries], self.project_image(image_states)

        def score(texts: Tensor, atts: Tensor | None, image: Tensor) -> Tensor:
            ids = texts[..., 0].round().long()
            seen = torch.ones_like(ids) if atts is None else atts
            queries = self.net.query_tokens.expand(len(ids), -1, -1)
            read = self.net.qformer(
                query_embeds=self.net.embeddings(input_ids=ids, query_embeds=queries),
                query_length=self.queries,
                attention_mask=torch.cat([seen.new_ones(len(ids), self.queries), seen], dim=1),
                encoder_hidden_states=states[image],
            ).last_hidden_state
            logits = self.net.itm_head(read[:, : self.queries]).mean(dim=1)
            cosine = (features[image] * self.project_text(texts)[:, None]).sum(-1).amax(1)
            return logits[:, 1] + cosine

        return score
