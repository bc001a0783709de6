"""BLIP: a vision transformer, the mixture of encoder and decoder, and the losses that trained them.

Source: Li et al., BLIP (ICML 2022) and its released code, as MULTIFLOW (Farina et al., CVPR 2024) prunes it.
Shape legend: b pairs, n patches, t tokens, d width, e embedding width, q length of the queue.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp_bench.batch import Batch, Place
from vlp_bench.models.blip.med import tie_med
from vlp_bench.models.blip.towers import BLIPConfig, blip_decoder, blip_text, blip_vision
from vlp_bench.models.losses import same_image, similarity
from vlp_bench.models.momentum import copy_to_momentum, enqueue, ramped, update_momentum
from vlp_bench.models.negatives import draw, negative_weights
from vlp_bench.models.next_word_losses import next_word_loss, replace_first, targets
from vlp_bench.models.released_names import NOBODY
from vlp_bench.models.reranking import Score, SeenImages, asking
from vlp_bench.models.rows import taken
from vlp_bench.models.xvlm.towers import init_linear
from vlp_bench.processes import gather, gather_padded, own_rows

TEMP_RANGE = (0.001, 0.5)
DENSE = ("vision_proj", "text_proj", "itm_head", "text_decoder.cls")  # never pruned
COPIES = ("vision_model_m", "text_encoder_m", "vision_proj_m", "text_proj_m")  # momentum, not counted
READS_IMAGE = (".crossattention.self.key.", ".crossattention.self.value.")


@dataclass
class _Features:
    """Normalised [CLS] features: of this batch, of the momentum copies, and the latter before the queue's."""

    image: Tensor  # (b, e)
    text: Tensor  # (b, e)
    image_m: Tensor  # (b, e)
    text_m: Tensor  # (b, e)
    images_all: Tensor  # (b + q, e)
    texts_all: Tensor  # (b + q, e)


class BLIP(nn.Module):
    """The pre-training model. `attention` is `sdpa` or `eager`; both give the same numbers to about 1e-6.

    Losses change the model as the released code does: each updates the momentum copies, the queue and the
    temperature's range, whether or not gradients are asked for.
    """

    image_queue: Tensor  # (e, q)
    text_queue: Tensor  # (e, q)
    idx_queue: Tensor  # (1, q) identities, NOBODY where the queue was not filled in fine-tuning
    queue_ptr: Tensor  # (1,) where the next batch goes

    def __init__(self, config: BLIPConfig, *, attention: str = "sdpa") -> None:
        super().__init__()
        self.config = config
        self.attention = attention
        self.vision_model = blip_vision(config, attention)
        self.text_encoder = blip_text(config, attention)
        self.text_decoder = blip_decoder(config, attention) if config.decoder else None
        self.vision_proj = nn.Linear(config.vision_width, config.embed_dim).apply(init_linear)
        self.text_proj = nn.Linear(config.text_width, config.embed_dim).apply(init_linear)
        self.itm_head = nn.Linear(config.text_width, 2).apply(init_linear)
        self.temp = nn.Parameter(torch.tensor(config.temp))
        if self.text_decoder is not None:
            tie_med(self.text_encoder, self.text_decoder)
        self.renew_copies()
        self._empty_queue()

    def _empty_queue(self) -> None:
        shape = (self.config.embed_dim, self.config.queue_size)
        for name in ("image_queue", "text_queue"):
            self.register_buffer(name, F.normalize(torch.randn(shape), dim=0))
        self.register_buffer("idx_queue", torch.full((1, shape[1]), NOBODY))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    @property
    def adapter(self) -> BLIPAdapter:
        """What pruning asks of this model."""
        return BLIPAdapter()

    def resize_images(self, image_size: int) -> None:
        """Take images of another size from now on (pixels): the tables of positions are resized bicubically."""
        self.config = replace(self.config, image_size=image_size)
        for vision in (self.vision_model, self.get_submodule("vision_model_m")):
            vision.embeddings.resize(image_size, self.config.tokens)  # pyright: ignore

    def drop_decoder(self) -> None:
        """Become the retrieval model: without the decoder's self-attention and word head."""
        self.config = replace(self.config, decoder=False)
        self.text_decoder = None

    # --- momentum ---

    def _pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(self.get_submodule(name.removesuffix("_m")), self.get_submodule(name)) for name in COPIES]

    def restart_momentum(self) -> None:
        """The momentum copies become the weights as they are."""
        copy_to_momentum(self._pairs())

    def renew_copies(self) -> None:
        """The momentum copies become copies of the modules as they are, whatever their shapes."""
        for name in COPIES:
            setattr(self, name, copy.deepcopy(getattr(self, name.removesuffix("_m"))))
        self.restart_momentum()

    # --- towers ---

    def encode_image(self, images: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, 1 + n, d); row 0 is [CLS]."""
        return self.vision_model(images)

    def text_states(self, ids: Tensor, atts: Tensor | None) -> Tensor:
        """(b, t) token ids and attention (1 = token; None = all are) -> (b, t, d), without an image."""
        return self.text_encoder(ids, atts)

    def encode_text(self, ids: Tensor, atts: Tensor | None) -> Tensor:
        """What `match` needs of each text, (b, t, 1 + e) float32: its ids, and its feature at every token.

        BLIP reads a text once more for every image it is matched with, hence ids, not states.
        """
        feature = F.normalize(self.text_proj(self.text_states(ids, atts)[:, 0]).float(), dim=-1)
        return torch.cat([ids[..., None].float(), feature[:, None].expand(-1, ids.shape[1], -1)], dim=-1)

    def fuse(self, ids: Tensor, atts: Tensor | None, image_states: Tensor) -> Tensor:
        """(b, t) ids, whatever their first, and (b, 1 + n, d) image states -> (b, t, d), the first read as [ENC]."""
        return self.text_encoder(replace_first(ids, self.config.enc_id), atts, image_states)

    def predict_words(self, ids: Tensor, atts: Tensor | None, image_states: Tensor) -> Tensor:
        """(b, t, v) logits of the next word after each, given the image; the first is read as [DEC]."""
        if self.text_decoder is None:
            raise ValueError("this BLIP has no decoder (BLIPConfig.decoder): it is a retrieval model")
        return self.text_decoder(replace_first(ids, self.config.dec_id), atts, image_states)

    def project_image(self, states: Tensor) -> Tensor:
        """(b, 1 + n, d) -> (b, e), from [CLS], of length 1, float32."""
        return F.normalize(self.vision_proj(states[:, 0]).float(), dim=-1)

    def project_text(self, texts: Tensor) -> Tensor:
        """(b, t, 1 + e) of `encode_text` -> (b, e) of length 1, float32."""
        return texts[:, 0, 1:]

    def match(self, texts: Tensor, text_atts: Tensor | None, image_states: Tensor) -> Tensor:
        """(b,) how well text and image go together: ITM's logit plus the cosine of both features; in eval mode.

        texts: (b, t, 1 + e) of `encode_text`.
        """
        return self.matcher(image_states)(texts, text_atts, torch.arange(len(image_states)))

    def asks(self, states: Tensor, atts: Tensor | None) -> Tensor:
        """What a `matcher` is given of each text, (b, t, 1 + e): as `encode_text` has it, a third of its states."""
        return states

    def matcher(self, image_states: Tensor) -> Score:
        """`match` for many texts of each of some images (m, 1 + n, d)."""
        tower, features = self.text_encoder, self.project_image(image_states)
        images = SeenImages(tower.encoder.layer, image_states)

        def score(texts: Tensor, atts: Tensor | None, image: Tensor) -> Tensor:
            ids = replace_first(texts[..., 0].round().long(), self.config.enc_id)
            asks = asking(tower.encoder.layer[0], tower.embeddings(ids), atts)
            logits = self.itm_head(images.fuse(asks, atts, image)).float()
            return logits[:, 1] + (self.project_text(texts) * features[image]).sum(-1)

        return score

    # --- losses ---

    def pretraining_losses(
        self, batch: Batch, generator: torch.Generator | None = None, *, alpha: float = 0.0
    ) -> dict[str, Tensor]:
        """`itc`, `itm`, `lm`: scalars. alpha: weight of the momentum copies' soft targets (pruning: 0).

        `generator` draws ITM's negatives; None is torch's global one.
        """
        ids, atts = _text(batch)
        images = self.encode_image(batch.images)
        update_momentum(self._pairs(), self.config.momentum)
        x = self._features(batch, images)
        b = len(x.image)
        positive = F.pad(torch.eye(b, device=ids.device), (0, self.config.queue_size))
        itc, logits = self._itc(x, positive, alpha)
        self._remember(x, None)
        itm = self._itm(ids, atts, images, (logits[0][:, :b], logits[1][:, :b]), None, 1e-4, generator)
        words = self.predict_words(ids, atts, images)
        labels = targets(replace_first(ids, self.config.dec_id), self.config.pad_id)
        return {"itc": itc, "itm": itm, "lm": next_word_loss(words, labels, self.config.label_smoothing)}

    def retrieval_losses(
        self, batch: Batch, generator: torch.Generator | None = None, *, alpha: float = 0.4, progress: float = 1.0
    ) -> dict[str, Tensor]:
        """`itc` and `itm` of fine-tuning on retrieval; pairs with equal `batch.idx` are never negatives.

        alpha: weight of the soft targets, ramped up over the first epoch; progress: epochs trained so far. The copies
        are updated once they were used, for the recorded numbers of the released model are of copies as loaded. They
        inherit the masks of the weights they follow.
        """
        ids, atts = _text(batch)
        alpha = ramped(alpha, progress)
        images = self.encode_image(batch.images)
        x = self._features(batch, images)
        update_momentum(self._pairs(), self.config.momentum, inherit_zeros=True)
        idx = torch.arange(len(x.image), device=ids.device) if batch.idx is None else gather(batch.idx)
        known = self.idx_queue[0].clone() if batch.idx is not None else torch.full_like(self.idx_queue[0], NOBODY)
        positive = (idx[:, None] == torch.cat([idx, known])[None]).float()
        itc, _ = self._itc(x, positive / positive.sum(1, keepdim=True), alpha)
        self._remember(x, None if batch.idx is None else idx)
        near = similarity(x.image, x.text, self.temp)
        return {"itc": itc, "itm": self._itm(ids, atts, images, (near, near.T), idx, 1e-12, generator)}

    def _features(self, batch: Batch, images: Tensor) -> _Features:
        with torch.no_grad():
            self.temp.clamp_(*TEMP_RANGE)
        ids, atts = _text(batch)
        image, text = gather(self.project_image(images)), gather(self.project_text(self.encode_text(ids, atts)))
        with torch.no_grad():
            vision, encoder, vision_proj, text_proj = (copied for _, copied in self._pairs())
            image_m = gather(F.normalize(vision_proj(vision(batch.images)[:, 0]).float(), dim=-1))
            text_m = gather(F.normalize(text_proj(encoder(ids, atts)[:, 0]).float(), dim=-1))
            images_all = torch.cat([image_m, self.image_queue.T.to(image_m)])
            texts_all = torch.cat([text_m, self.text_queue.T.to(text_m)])
        return _Features(image, text, image_m, text_m, images_all, texts_all)

    def _itc(self, x: _Features, positive: Tensor, alpha: float) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The mean of both directions' cross entropy, and the logits (b, b + q) of image to text and text to image.

        positive: (b, b + q) hard targets; alpha of the target is what the momentum copies find similar.
        """
        loss, logits = x.image.new_zeros(()), []
        for ours, theirs, everything in ((x.image, x.image_m, x.texts_all), (x.text, x.text_m, x.images_all)):
            soft = similarity(theirs, everything, self.temp).detach().softmax(1)
            logits.append(similarity(ours, everything, self.temp))
            loss = loss + F.cross_entropy(logits[-1], alpha * soft + (1 - alpha) * positive) / 2
        return loss, (logits[0], logits[1])

    @torch.no_grad()
    def _remember(self, x: _Features, idx: Tensor | None) -> None:
        """This batch's momentum features replace the queue's oldest."""
        start = int(self.queue_ptr)
        enqueue(self.image_queue, x.image_m, start)
        self.queue_ptr.fill_(enqueue(self.text_queue, x.text_m, start))
        unknown = torch.full((len(x.image_m), 1), NOBODY, device=x.image_m.device)
        enqueue(self.idx_queue, unknown if idx is None else idx[:, None], start)

    def _itm(
        self,
        ids: Tensor,
        atts: Tensor,
        images: Tensor,
        logits: tuple[Tensor, Tensor],
        idx: Tensor | None,
        eps: float,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Cross entropy of b true pairs, b texts with a wrong image and b images with a wrong text, all read anew.

        logits: image to text and text to image of all processes' pairs (n·b, n·b), of which negatives are drawn: first
        the images, then the texts. Each process answers for its own b pairs.
        """
        b = len(ids)
        with torch.no_grad():
            same = same_image(len(logits[0]), idx, ids.device)
            image_of_text = draw(negative_weights(logits[1], same, 0.0, eps=eps), generator)
            text_of_image = draw(negative_weights(logits[0], same, 0.0, eps=eps), generator)
        ids, atts, images = gather_padded(ids), gather_padded(atts), gather(images)
        right = own_rows(b, ids.device)
        texts = torch.cat([right, right, text_of_image[right]])
        pictures = torch.cat([right, image_of_text[right], right])
        fused = self.fuse(ids[texts], atts[texts], taken(images, pictures))
        return F.cross_entropy(self.itm_head(fused[:, 0]).float(), (torch.arange(3 * b, device=ids.device) < b).long())


def retriever(model: BLIP) -> BLIP:
    """The retrieval model: no decoder, and momentum copies that start from the weights as they are after pruning."""
    model.drop_decoder()
    model.restart_momentum()
    return model


def _text(batch: Batch) -> tuple[Tensor, Tensor]:
    if batch.text_ids is None or batch.text_atts is None:
        raise ValueError("this batch has no text_ids or no text_atts, which the model needs here")
    return batch.text_ids, batch.text_atts


@dataclass(frozen=True)
class BLIPAdapter:
    """BLIP's answers to the six questions of pruning (see `vlp_bench.pruning`)."""

    def prunable(self, model: nn.Module) -> list[str]:
        """Names of all linear weights but those of heads, projections and momentum copies; a shared one has one."""
        linear = {
            id(module.weight)
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and not name.startswith(DENSE + COPIES)
        }
        return [name for name, parameter in model.named_parameters() if id(parameter) in linear]

    def place(self, name: str) -> Place:
        """Vision or text, and the layer; what encoder and decoder share goes by the encoder's name."""
        parts = name.split(".")
        if parts[0] == "vision_model":
            return Place("vision", ".".join(parts[:4]))
        depth = 5 if parts[0] == "text_decoder" else 4
        assert parts[depth - 2] == "layer", name
        return Place("text", ".".join(parts[:depth]))

    def encode(self, model: BLIP, batch: Batch) -> None:
        """Vision, the encoder with the image, and the decoder, on the true pairs, without gradients."""
        ids, atts = _text(batch)
        with torch.no_grad():
            images = model.encode_image(batch.images)
            model.fuse(ids, atts, images)
            if model.text_decoder is not None:
                model.predict_words(ids, atts, images)

    def loss(self, model: BLIP, batch: Batch) -> Tensor:
        """ITC + ITM + LM without soft targets, as the released pruners do. Advances momentum copies and queue."""
        return torch.stack(list(model.pretraining_losses(batch).values())).sum()

    def token_mask(self, batch: Batch, name: str, tokens: int) -> Tensor | None:
        """(b, t) bool, real tokens at a text layer's input; None where the input is the image."""
        if name.startswith("vision_model.") or any(part in name for part in READS_IMAGE):
            return None
        mask = _text(batch)[1].bool()
        assert mask.shape[1] == tokens, f"{name} saw {tokens} tokens, the batch has {mask.shape[1]}"
        return mask

    def rows(self, batch: Batch) -> int:
        """Images in the batch."""
        return len(batch.images)
