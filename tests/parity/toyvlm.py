"""The three-modality network on which the released pruners were recorded, rebuilt from its description.

Width 24, hidden width 48 (1024 in the second vision layer), 40 words, 5 patches, 7 tokens. No norms, no attention.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp_bench.batch import Batch, Place

DATA = Path(__file__).parent / "data"
D, H, PROJECTED, WORDS = 24, 48, 16, 40


class Mlp(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(D, hidden), nn.Linear(hidden, D)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(F.gelu(self.fc1(x)))


class Fusion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.value, self.out = nn.Linear(D, H), nn.Linear(D, H), nn.Linear(H, D)

    def forward(self, x: Tensor, images: Tensor, image_atts: Tensor) -> Tensor:
        weights = image_atts.float().unsqueeze(-1)
        pooled = (self.value(images) * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
        return x + self.out(F.gelu(self.query(x) + pooled))


def tree(**children: nn.Module) -> nn.Module:
    module = nn.Module()
    for name, child in children.items():
        module.add_module(name, child)
    return module


class ToyVLM(nn.Module):
    """Named as the released X-VLM, so that the recorded arrays fit."""

    def __init__(self) -> None:
        super().__init__()
        self.vision_encoder = tree(encoder=tree(layers=nn.ModuleList([Mlp(H), Mlp(1024)])))
        layers = nn.ModuleDict({"0": Mlp(H), "1": Mlp(H), "6": Fusion(), "7": Fusion()})
        bert = tree(embeddings=nn.Embedding(WORDS, D), encoder=tree(layer=layers))
        self.text_encoder = tree(bert=bert, cls=nn.Linear(D, WORDS))
        self.vision_proj, self.text_proj = nn.Linear(D, PROJECTED), nn.Linear(D, PROJECTED)
        self.itm_head, self.bbox_head = nn.Linear(D, 2), nn.Linear(D, 4)

    @property
    def adapter(self) -> ToyAdapter:
        return ToyAdapter()

    def images(self, batch: Batch) -> tuple[Tensor, Tensor]:
        x = batch.images
        for layer in self.vision_encoder.encoder.layers:
            x = layer(x)
        if batch.idx_to_group_img is None:
            return x, torch.ones(x.shape[:2])
        return x[batch.idx_to_group_img], batch.image_atts

    def text(self, ids: Tensor) -> Tensor:
        bert = self.text_encoder.bert
        return bert.encoder.layer["1"](bert.encoder.layer["0"](bert.embeddings(ids)))

    def fuse(self, x: Tensor, images: Tensor, atts: Tensor) -> Tensor:
        layer = self.text_encoder.bert.encoder.layer
        return layer["7"](layer["6"](x, images, atts), images, atts)

    def loss(self, batch: Batch) -> Tensor:
        images, atts = self.images(batch)
        text = self.text(batch.text_ids)
        return self.itc(images, text, batch.text_atts) + self.itm(images, atts, text) + self.mlm(images, atts, batch)

    def itc(self, images: Tensor, text: Tensor, text_atts: Tensor) -> Tensor:
        weights = text_atts.float().unsqueeze(-1)
        pooled = (text * weights).sum(1) / weights.sum(1)
        logits = self.vision_proj(images.mean(1)) @ self.text_proj(pooled).t()
        labels = torch.arange(len(logits))
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.t(), labels)) / 2

    def itm(self, images: Tensor, atts: Tensor, text: Tensor) -> Tensor:
        positive = self.fuse(text, images, atts)[:, 0]
        negative = self.fuse(text, images.roll(1, 0), atts.roll(1, 0))[:, 0]
        logits = self.itm_head(torch.cat([positive, negative]))
        return F.cross_entropy(logits, torch.arange(2).flip(0).repeat_interleave(len(text)))

    def mlm(self, images: Tensor, atts: Tensor, batch: Batch) -> Tensor:
        states = self.fuse(self.text(batch.text_ids_masked), images, atts)
        picked = states.gather(1, batch.masked_pos.unsqueeze(-1).expand(-1, -1, D))
        return F.cross_entropy(
            self.text_encoder.cls(picked).flatten(0, 1), batch.masked_ids.flatten(), ignore_index=-100
        )


class ToyAdapter:
    def prunable(self, model: nn.Module) -> list[str]:
        layers = [
            name for name, module in model.named_modules() if isinstance(module, nn.Linear) and "encoder." in name
        ]
        return [f"{name}.weight" for name in layers if "cls" not in name]

    def place(self, name: str) -> Place:
        parts = name.split(".")
        if parts[0] == "vision_encoder":
            return Place("vision", parts[3])
        return Place("fusion" if int(parts[4]) > 5 else "text", parts[4])

    def encode(self, model: ToyVLM, batch: Batch) -> None:
        model.fuse(model.text(batch.text_ids), *model.images(batch))

    def loss(self, model: ToyVLM, batch: Batch) -> Tensor:
        return model.loss(batch)

    def token_mask(self, batch: Batch, name: str, tokens: int) -> Tensor | None:
        if name.startswith("vision_encoder.") or "value" in name:
            return None
        return batch.text_atts.bool()

    def rows(self, batch: Batch) -> int:
        return len(batch.images)


def load() -> tuple[ToyVLM, list[list[Batch]]]:
    """The network with its recorded weights, and six batches of a general and a region part."""
    arrays = np.load(DATA / "toyvlm.npz")
    model = ToyVLM()
    model.load_state_dict({key[6:]: torch.from_numpy(arrays[key]) for key in arrays.files if key.startswith("param/")})
    batches = [[_batch(arrays, f"{part}{i}/") for part in ("general", "region")] for i in range(6)]
    return model.eval(), batches


def _batch(arrays: np.lib.npyio.NpzFile, start: str) -> Batch:
    found = {key.removeprefix(start): torch.from_numpy(arrays[key]) for key in arrays.files if key.startswith(start)}
    return Batch(**found)
