"""Visual question answering: read question and image together, then write or rank answers.

Source: the released X-VLM and BLIP code, as MULTIFLOW fine-tunes them. Shape legend: b questions, a answers of all of
them, c candidate answers, k of them ranked closely, n patches, t tokens, d width, v vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vlp_bench.models.blip.med import run_layers
from vlp_bench.models.blip.model import BLIP
from vlp_bench.models.blip.towers import BLIPConfig, blip_decoder, blip_text, blip_vision
from vlp_bench.models.checkpoints.inherit import blip_source, clip_states, filled_from
from vlp_bench.models.next_word_losses import next_word_losses, replace_first, targets
from vlp_bench.models.rows import taken
from vlp_bench.models.xvlm.model import XVLM
from vlp_bench.models.xvlm.towers import XVLMConfig, text_tower, vision_tower


@dataclass(frozen=True)
class Answers:
    """The answers people gave to b questions, question by question.

    ids, atts: (a, t); counts: (b,) how many belong to each question, a in all; weights: (a,) share of the people.
    """

    ids: Tensor
    atts: Tensor
    counts: Tensor
    weights: Tensor

    def __post_init__(self) -> None:
        if not int(self.counts.sum()) == len(self.ids) == len(self.weights):
            raise ValueError(
                f"counts add up to {int(self.counts.sum())}, but there are {len(self.ids)} answers with "
                f"{len(self.weights)} weights: all three must agree"
            )


class VQAModel(nn.Module):
    """What both models do with their towers."""

    pad_id: int = 0
    start_id: int | None = None  # replaces an answer's first token
    smoothing: float = 0.0
    counts_first_word_twice: bool = False

    def encode_image(self, images: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, 1 + n, d)."""
        raise AssertionError("a VQA model encodes images")

    def read(self, question_ids: Tensor, question_atts: Tensor | None, image_states: Tensor) -> Tensor:
        """(b, t) questions and (b, 1 + n, d) image states -> (b, t, d)."""
        raise AssertionError("a VQA model reads questions")

    def predict_words(self, ids: Tensor, atts: Tensor | None, states: Tensor, state_atts: Tensor | None) -> Tensor:
        """(a, t) answers and the (a, s, d) question states of each -> (a, t, v) logits of the next word after each."""
        raise AssertionError("a VQA model predicts words")

    def _started(self, ids: Tensor) -> Tensor:
        return ids if self.start_id is None else replace_first(ids, self.start_id)

    def answer_losses(self, ids: Tensor, atts: Tensor, states: Tensor, state_atts: Tensor | None) -> Tensor:
        """(a, t) answers, one per row of question states -> (a,) loss of each whole answer."""
        ids = self._started(ids)
        logits = self.predict_words(ids, atts, states, state_atts)
        return next_word_losses(logits, targets(ids, self.pad_id), self.smoothing).sum(1)

    def vqa_losses(
        self, images: Tensor, question_ids: Tensor, question_atts: Tensor, answers: Answers
    ) -> dict[str, Tensor]:
        """`vqa`: the weighted loss of all answers, per question. images (b, 3, h, w), questions (b, t)."""
        states = self.read(question_ids, question_atts, self.encode_image(images))
        of = torch.arange(len(states), device=states.device).repeat_interleave(answers.counts)
        losses = self.answer_losses(answers.ids, answers.atts, taken(states, of), question_atts[of])
        return {"vqa": (answers.weights * losses).sum() / len(states)}

    @torch.no_grad()
    def rank(
        self,
        states: Tensor,
        state_atts: Tensor | None,
        ids: Tensor,
        atts: Tensor,
        k: int = 128,
        *,
        pairs: int = 512,
    ) -> tuple[Tensor, Tensor]:
        """The k likeliest of c candidates for each question, best first: (b, k) their rows and (b, k) probabilities.

        states, state_atts: (b, s, d), (b, s) questions that were read. ids, atts: (c, t) candidates, first token
        included. Those with the likeliest first words are scored as a whole, `pairs` at a time, which bounds memory;
        probabilities are among these k.
        """
        k = min(k, len(ids))
        start = self._started(ids[:1, :1]).expand(len(states), 1)
        first = self.predict_words(start, None, states, state_atts)[:, 0].softmax(-1)  # (b, v)
        probabilities, rows = first[:, ids[:, 1]].topk(k, dim=1)
        of, picked = torch.arange(rows.numel(), device=rows.device) // k, rows.flatten()
        scores = -torch.cat(
            [
                self.answer_losses(ids[a], atts[a], states[q], None if state_atts is None else state_atts[q])
                for q, a in zip(of.split(pairs), picked.split(pairs), strict=True)
            ]
        ).view(rows.shape)
        if self.counts_first_word_twice:
            scores = scores + probabilities.log()
        best = scores.softmax(1).topk(k, dim=1)
        return rows.gather(1, best.indices), best.values


class XVLMVQA(VQAModel):
    """XVLM's towers read the question; a decoder made of its fusion layers attends to what was read.

    The released ranking adds the log probability of the first word to that of the whole answer.
    """

    counts_first_word_twice = True

    def __init__(self, config: XVLMConfig, *, attention: str = "sdpa") -> None:
        super().__init__()
        self.config, self.attention = config, attention
        self.vision_encoder = vision_tower(config, attention)
        self.text_encoder = text_tower(config, attention).bert
        self.text_decoder = text_tower(replace(config, text_layers=config.fusion_layers), attention)

    @classmethod
    def of(cls, model: XVLM) -> XVLMVQA:
        """The model that starts from a pre-trained (and pruned) one: its fusion layers are there twice, apart."""
        return filled_from(cls(model.config, attention=model.attention), model)

    def pretrained_name(self, name: str) -> str:
        """Where a parameter comes from in the pre-trained model, and so which mask it may inherit."""
        if name.startswith("text_encoder."):
            return name.replace("text_encoder.", "text_encoder.bert.", 1)
        parts = name.replace("text_decoder.", "text_encoder.", 1).split(".")
        if parts[1:4] == ["bert", "encoder", "layer"]:
            parts[4] = str(int(parts[4]) + self.config.first_fusion_layer)
        return ".".join(parts)

    def encode_image(self, images: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, 1 + n, d)."""
        return clip_states(self.vision_encoder, images)

    def read(self, question_ids: Tensor, question_atts: Tensor | None, image_states: Tensor) -> Tensor:
        """(b, t) questions and (b, 1 + n, d) image states -> (b, t, d)."""
        x = self.text_encoder.embeddings(input_ids=question_ids)
        return run_layers(self.text_encoder.encoder.layer, x, question_atts, image_states, attention=self.attention)

    def predict_words(self, ids: Tensor, atts: Tensor | None, states: Tensor, state_atts: Tensor | None) -> Tensor:
        """(a, t) answers and the (a, s, d) question states of each -> (a, t, v) logits of the next word after each."""
        bert = self.text_decoder.bert
        x = bert.embeddings(input_ids=ids)
        x = run_layers(bert.encoder.layer, x, atts, states, state_atts, attention=self.attention, causal=True)
        return self.text_decoder.cls(x).float()


class BLIPVQA(VQAModel):
    """BLIP's encoder reads the question, its decoder answers; here they share nothing any more."""

    def __init__(self, config: BLIPConfig, *, attention: str = "sdpa") -> None:
        super().__init__()
        self.config, self.attention = config, attention
        self.pad_id, self.start_id, self.smoothing = config.pad_id, config.dec_id, config.label_smoothing
        self.vision_model = blip_vision(config, attention)
        self.text_encoder = blip_text(config, attention)
        self.text_decoder = blip_decoder(config, attention)

    @classmethod
    def of(cls, model: BLIP, *, drop_path: float = 0.1) -> BLIPVQA:
        """The model that starts from a pre-trained (and pruned) one. ValueError if that has no decoder."""
        if model.text_decoder is None:
            raise ValueError("this BLIP has no decoder (BLIPConfig.decoder): it cannot answer questions")
        made = cls(replace(model.config, drop_path=drop_path), attention=model.attention)
        return filled_from(made, model)

    def pretrained_name(self, name: str) -> str:
        """Where a parameter comes from in the pre-trained model, and so which mask it may inherit."""
        return blip_source(name)

    def encode_image(self, images: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, 1 + n, d)."""
        return self.vision_model(images)

    def read(self, question_ids: Tensor, question_atts: Tensor | None, image_states: Tensor) -> Tensor:
        """(b, t) questions, the first token read as [ENC], and (b, 1 + n, d) image states -> (b, t, d)."""
        return self.text_encoder(replace_first(question_ids, self.config.enc_id), question_atts, image_states)

    def predict_words(self, ids: Tensor, atts: Tensor | None, states: Tensor, state_atts: Tensor | None) -> Tensor:
        """(a, t) answers and the (a, s, d) question states of each -> (a, t, v) logits of the next word after each."""
        return self.text_decoder(ids, atts, states, state_atts)
