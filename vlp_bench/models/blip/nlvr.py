"""NLVR2 by BLIP: two images, one sentence, and whether it is true of them.

Source: Li et al., BLIP (ICML 2022), section 4.4, and the released model: in every layer the sentence attends to both
images, to each by weights of its own that start as the pre-trained ones; what they say is averaged in the lower half of
the layers, and put together by a linear layer in the upper half. Shape legend: b pairs, n patches, t tokens, d width.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertCrossAttention

from vlp_bench.batch import Batch
from vlp_bench.models.blip.model import BLIP
from vlp_bench.models.blip.towers import BLIPConfig, blip_text, blip_vision
from vlp_bench.models.next_word_losses import replace_first
from vlp_bench.models.xvlm.towers import init_linear

FRESH = ("cls_head.", ".merge_layer.")
"""Parts no pre-trained model has: they start anew and are never pruned."""


@dataclass(frozen=True)
class NLVRConfig(BLIPConfig):
    """Sizes of the model that judges; the defaults are those of the released one (`model_base_nlvr.pth`)."""

    image_size: int = 384
    drop_path: float = 0.1


class TwinOutput(nn.Module):
    """What was read of two images -> one state, added to what was there and normalised."""

    def __init__(self, bert: BertConfig, *, merge: bool) -> None:
        super().__init__()
        width = bert.hidden_size
        self.dense0, self.dense1 = nn.Linear(width, width), nn.Linear(width, width)
        self.merge_layer = nn.Linear(2 * width, width) if merge else None
        self.dropout = nn.Dropout(bert.hidden_dropout_prob)
        self.LayerNorm = nn.LayerNorm(width, eps=bert.layer_norm_eps)

    def forward(self, first: Tensor, second: Tensor, x: Tensor) -> Tensor:
        """(b, t, d) of the first and of the second image, and the states (b, t, d) they are added to."""
        first, second = self.dense0(first), self.dense1(second)
        if self.merge_layer is None:
            both = (first + second) / 2
        else:
            both = self.merge_layer(torch.cat([first, second], dim=-1))
        return self.LayerNorm(self.dropout(both) + x)


class TwinAttention(nn.Module):
    """Cross-attention to two images, in the place of a BERT layer's cross-attention to one."""

    def __init__(self, bert: BertConfig, *, merge: bool) -> None:
        super().__init__()
        self.self0, self.self1 = BertCrossAttention(bert), BertCrossAttention(bert)
        self.output = TwinOutput(bert, merge=merge)

    def forward(
        self, x: Tensor, mask: None, states: Tensor, state_mask: Tensor | None = None, **unused: object
    ) -> tuple[Tensor, None]:
        """(b, t, d), and the states of both images (b, 2, 1 + n, d) -> (b, t, d)."""
        first, second = states.unbind(1)
        return self.output(self.self0(x, first, state_mask)[0], self.self1(x, second, state_mask)[0], x), None


class BLIPNLVR(nn.Module):
    """BLIP's encoder with two cross-attentions a layer, and a head that reads its first token."""

    def __init__(self, config: NLVRConfig, *, attention: str = "sdpa") -> None:
        super().__init__()
        self.config, self.attention = config, attention
        self.vision_model = blip_vision(config, attention)
        self.text_encoder = blip_text(config, attention)
        layers = self.text_encoder.encoder.layer
        for i, layer in enumerate(layers):
            bert = layer.crossattention.self.config  # pyright: ignore
            layer.crossattention = TwinAttention(bert, merge=i >= len(layers) // 2)  # pyright: ignore
        width = config.text_width
        self.cls_head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))
        for name, module in self.named_modules():
            if any(part in f"{name}." for part in FRESH):
                init_linear(module)

    @classmethod
    def of(cls, model: BLIP, *, drop_path: float = 0.1) -> BLIPNLVR:
        """The model that starts from a pre-trained (and pruned) one; what only two images need starts anew."""
        sizes: dict[str, Any] = asdict(model.config) | {"drop_path": drop_path}
        made = cls(NLVRConfig(**sizes), attention=model.attention)
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                if not any(part in name for part in FRESH):
                    parameter.copy_(model.get_parameter(made.pretrained_name(name)))
        return made.train(model.training)

    def pretrained_name(self, name: str) -> str:
        """Where a parameter comes from in the pre-trained model, and so which mask it inherits.

        Both images' cross-attentions come from the one; a part that starts anew has no name there but its own.
        """
        if ".crossattention." not in name or any(part in name for part in FRESH):
            return name
        head, _, tail = name.partition(".crossattention.")
        for side in "01":
            tail = tail.replace(f"self{side}.", "self.").replace(f"dense{side}.", "dense.")
        return f"{head}.crossattention.{tail}"

    def resize_images(self, image_size: int) -> None:
        """Take images of another size from now on (pixels): the table of positions is resized bicubically."""
        self.config = replace(self.config, image_size=image_size)
        self.vision_model.embeddings.resize(image_size, self.config.tokens)

    def judge(self, images: Tensor, ids: Tensor, atts: Tensor | None) -> Tensor:
        """(2 b, 3, h, w) images, a pair one after the other, and (b, t) sentences -> (b, 2) logits: false, true."""
        states = self.vision_model(images).unflatten(0, (len(ids), 2))
        first = self.text_encoder(replace_first(ids, self.config.enc_id), atts, states)[:, 0]
        return self.cls_head(first).float()

    def pair_losses(self, batch: Batch) -> dict[str, Tensor]:
        """`pair`: cross entropy of true (`labels` 1) against false."""
        if batch.text_ids is None or batch.labels is None:
            raise ValueError("this batch has no text_ids or no labels, which the model needs here")
        return {"pair": F.cross_entropy(self.judge(batch.images, batch.text_ids, batch.text_atts), batch.labels)}
