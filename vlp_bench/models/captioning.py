"""Captioners: an image and a prompt -> the words that follow.

XVLM's reads with all of its BERT layers causally, the last of them attending to the image (MULTIFLOW's captioning
model); BLIP's is its vision transformer and its decoder. Shape legend: b captions, n patches, t tokens, d width,
v vocabulary, w beams.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.cache_utils import EncoderDecoderCache

from vlp_bench.batch import Batch
from vlp_bench.models.beam import BeamRule, beam_search
from vlp_bench.models.blip.med import new_cache, run_layers
from vlp_bench.models.blip.model import BLIP
from vlp_bench.models.blip.towers import BLIPConfig, blip_decoder, blip_vision
from vlp_bench.models.checkpoints.inherit import blip_source, clip_states, filled_from
from vlp_bench.models.next_word_losses import next_word_loss, replace_first, targets
from vlp_bench.models.xvlm.model import XVLM
from vlp_bench.models.xvlm.towers import XVLMConfig, text_tower, vision_tower

PROMPT = 4  # tokens of '[CLS] a picture of', which the loss leaves out


class Captioner(nn.Module):
    """What both captioners do with their towers. `smoothing`: of labels; `prompt`: tokens the loss leaves out."""

    pad_id: int = 0
    start_id: int | None = None  # replaces the prompt's first token
    smoothing_kind: str = "shared"

    def __init__(self, smoothing: float, prompt: int) -> None:
        super().__init__()
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must be at least 0 and below 1, got {smoothing}")
        self.smoothing, self.prompt = smoothing, prompt

    def encode_image(self, images: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, 1 + n, d)."""
        raise AssertionError("a captioner encodes images")

    def predict_words(
        self, ids: Tensor, atts: Tensor | None, image_states: Tensor, cache: EncoderDecoderCache | None = None
    ) -> Tensor:
        """(b, t) ids -> (b, t, v) float32 logits of the next word after each, given the image."""
        raise AssertionError("a captioner predicts words")

    def started(self, ids: Tensor) -> Tensor:
        """(b, t) ids with the first token this captioner starts from."""
        return ids if self.start_id is None else replace_first(ids, self.start_id)

    def captioning_losses(self, batch: Batch) -> dict[str, Tensor]:
        """`lm`: the smoothed loss of each word after the prompt, a scalar."""
        if batch.text_ids is None or batch.text_atts is None:
            raise ValueError("this batch has no text_ids or no text_atts, which the captioner needs here")
        ids = self.started(batch.text_ids)
        logits = self.predict_words(ids, batch.text_atts, self.encode_image(batch.images))
        labels = targets(ids, self.pad_id, self.prompt)
        return {"lm": next_word_loss(logits, labels, self.smoothing, kind=self.smoothing_kind)}

    def generate(self, image_states: Tensor, prompt: Tensor, rule: BeamRule) -> Tensor:
        """(b, 1 + n, d) image states and (b, t) prompts without padding -> (b, up to max_length) token ids."""
        cache, wide = new_cache(), image_states.repeat_interleave(rule.beams, dim=0)

        def step(new: Tensor, rows: Tensor | None) -> Tensor:
            if rows is not None:  # all beams of an image see the same image: only what they said is put in order
                cache.self_attention_cache.reorder_cache(rows)  # pyright: ignore[reportArgumentType]
            return self.predict_words(new, None, wide, cache)[:, -1]

        return beam_search(step, self.started(prompt), rule)


class XVLMCaptioner(Captioner):
    """XVLM's towers with a causal mask in all text and fusion layers; X-VLM's own label smoothing."""

    smoothing_kind = "others"

    def __init__(
        self, config: XVLMConfig, *, attention: str = "sdpa", smoothing: float = 0.1, prompt: int = PROMPT
    ) -> None:
        super().__init__(smoothing, prompt)
        self.config, self.attention = config, attention
        self.vision_encoder = vision_tower(config, attention)
        self.text_decoder = text_tower(config, attention)

    @classmethod
    def of(cls, model: XVLM, *, smoothing: float = 0.1, prompt: int = PROMPT) -> XVLMCaptioner:
        """The captioner that starts from a pre-trained (and pruned) model, at its image size; heads are left behind."""
        captioner = cls(model.config, attention=model.attention, smoothing=smoothing, prompt=prompt)
        return filled_from(captioner, model)

    def pretrained_name(self, name: str) -> str:
        """Where a parameter comes from in the pre-trained model, and so which mask it inherits."""
        return name.replace("text_decoder.", "text_encoder.", 1)

    def encode_image(self, images: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, 1 + n, d)."""
        return clip_states(self.vision_encoder, images)

    def predict_words(
        self, ids: Tensor, atts: Tensor | None, image_states: Tensor, cache: EncoderDecoderCache | None = None
    ) -> Tensor:
        """(b, t) ids -> (b, t, v) float32 logits of the next word after each, given the image."""
        bert, past = self.text_decoder.bert, 0 if cache is None else cache.get_seq_length()
        positions = torch.arange(past, past + ids.shape[1], device=ids.device)
        x = run_layers(
            bert.encoder.layer,
            bert.embeddings(input_ids=ids, position_ids=positions[None]),
            atts,
            image_states,
            attention=self.attention,
            causal=True,
            cache=cache,
        )
        return self.text_decoder.cls(x).float()


class BLIPCaptioner(Captioner):
    """BLIP's vision transformer and decoder; torch's label smoothing."""

    def __init__(self, config: BLIPConfig, *, attention: str = "sdpa", prompt: int = PROMPT) -> None:
        super().__init__(config.label_smoothing, prompt)
        self.config, self.attention = config, attention
        self.pad_id, self.start_id = config.pad_id, config.dec_id
        self.vision_model = blip_vision(config, attention)
        self.text_decoder = blip_decoder(config, attention)

    @classmethod
    def of(cls, model: BLIP, *, prompt: int = PROMPT) -> BLIPCaptioner:
        """The captioner that starts from a pre-trained (and pruned) model; weights are copied.

        ValueError if that model has no decoder.
        """
        if model.text_decoder is None:
            raise ValueError("this BLIP has no decoder (BLIPConfig.decoder): it cannot become a captioner")
        return filled_from(cls(model.config, attention=model.attention, prompt=prompt), model)

    def pretrained_name(self, name: str) -> str:
        """Where a parameter comes from in the pre-trained model, and so which mask it inherits."""
        return blip_source(name)

    def encode_image(self, images: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, 1 + n, d)."""
        return self.vision_model(images)

    def predict_words(
        self, ids: Tensor, atts: Tensor | None, image_states: Tensor, cache: EncoderDecoderCache | None = None
    ) -> Tensor:
        """(b, t) ids -> (b, t, v) float32 logits of the next word after each, given the image."""
        return self.text_decoder(ids, atts, image_states, cache=cache)
