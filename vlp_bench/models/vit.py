"""The vision transformer of BLIP and DINO.

BLIP's query, key and value are one fused weight, which pruning sees as one layer; DINO's are three, as MULTIFLOW loads
it. Source: Dosovitskiy et al. (ICLR 2021) as in timm and the released BLIP; parameter names are those of transformers.
Shape legend: m images, n patches, d width, h heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp_bench.models.xvlm.towers import ConvStem, init_linear, inner_width, resize_positions, sine_positions

EPS = 1e-6
"""LayerNorm's epsilon in timm's code, with which BLIP and DINO were trained."""


class _Attention(nn.Module):
    """Self-attention over all tokens, without a mask."""

    projection: nn.Linear

    def __init__(self, width: int, heads: int, attention: str) -> None:
        super().__init__()
        self.heads, self.head_width, self.attention = heads, width // heads, attention

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(m, n, d) -> query, key and value, (m, h, n, head_width) each; pruned, h heads are fewer than d / width."""
        raise AssertionError("an attention says where query, key and value come from")

    def forward(self, x: Tensor) -> Tensor:
        """(m, n, d) -> (m, n, d)."""
        q, k, v = self._parts(x)
        if self.attention == "sdpa" and not _slow_when_fused(q):
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v
        return self.projection(mixed.transpose(1, 2).flatten(2))


def _slow_when_fused(q: Tensor) -> bool:
    """Training in bfloat16 on a CPU, where the backward pass of PyTorch's fused attention takes twice eager's time."""
    return q.requires_grad and q.dtype is torch.bfloat16 and q.device.type == "cpu"


class FusedAttention(_Attention):
    """Query, key and value are one weight, as in timm and BLIP."""

    def __init__(self, width: int, heads: int, attention: str) -> None:
        super().__init__(width, heads, attention)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        m, n, _ = x.shape
        q, k, v = self.qkv(x).view(m, n, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4)
        return q, k, v


class SplitAttention(_Attention):
    """Query, key and value have a weight each, as in transformers' ViT."""

    def __init__(self, width: int, heads: int, attention: str) -> None:
        super().__init__(width, heads, attention)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.projection = nn.Linear(width, width)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        m, n, _ = x.shape
        parts = (project(x) for project in (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = (part.view(m, n, self.heads, self.head_width).transpose(1, 2) for part in parts)
        return q, k, v


class MLP(nn.Module):
    """Linear(d, r d), GELU, Linear(r d, d); r d must be whole."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        inner = inner_width(ratio, width)
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """(m, n, d) -> (m, n, d)."""
        return self.fc2(F.gelu(self.fc1(x)))


class ViTLayer(nn.Module):
    """Pre-norm attention and feed-forward network, each added to its input unless drop-path leaves it out."""

    def __init__(
        self,
        width: int,
        heads: int,
        ratio: float,
        attention: str,
        drop_path: float,
        *,
        eps: float = EPS,
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.self_attn = (FusedAttention if fused else SplitAttention)(width, heads, attention)
        self.layer_norm1 = nn.LayerNorm(width, eps=eps)
        self.mlp = MLP(width, ratio)
        self.layer_norm2 = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """(m, n, d) -> (m, n, d)."""
        x = x + self._kept(self.self_attn(self.layer_norm1(x)))
        return x + self._kept(self.mlp(self.layer_norm2(x)))

    def _kept(self, branch: Tensor) -> Tensor:
        """In training, zero for a random share `drop_path` of the images and scaled up for the others."""
        if not self.training or self.drop_path == 0:
            return branch
        keep = 1 - self.drop_path
        return branch * (torch.rand(len(branch), 1, 1, device=branch.device) < keep) / keep


class PatchEmbeddings(nn.Module):
    """Patches by one convolution with bias, a [CLS] before them, learned positions added.

    With the stem `conv`, of our small models, patches come from a ConvStem, positions begin as waves, and all tokens
    are normalised at the end, as CLIP's are.
    """

    def __init__(self, width: int, image_size: int, patch_size: int, stem: str = "patch") -> None:
        super().__init__()
        self.image_size = image_size
        tokens = (image_size // patch_size) ** 2 + 1
        self.class_embedding = nn.Parameter(torch.empty(1, 1, width).normal_(std=0.02))
        self.position_embedding = nn.Parameter(torch.empty(1, tokens, width).normal_(std=0.02))
        self.patch_embedding = nn.Conv2d(3, width, patch_size, patch_size) if stem == "patch" else ConvStem(width)
        self.norm = nn.Identity() if stem == "patch" else nn.LayerNorm(width)  # CLIP's epsilon
        if stem == "conv":
            with torch.no_grad():
                self.position_embedding[0, 1:] = sine_positions(image_size // patch_size, width)

    def forward(self, images: Tensor) -> Tensor:
        """(m, 3, h, w) -> (m, 1 + n, d). ValueError for images of another size."""
        if images.shape[-2:] != (self.image_size, self.image_size):
            given = "*".join(map(str, images.shape[-2:]))
            raise ValueError(
                f"images are {given}, the model takes {self.image_size}*{self.image_size}: resize_images()"
            )
        patches = self.patch_embedding(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(images), -1, -1).to(patches.dtype), patches], dim=1)
        return self.norm(x + self.position_embedding)

    def resize(self, image_size: int, tokens: int) -> None:
        """Take images of another size: the positions are resized bicubically."""
        self.image_size = image_size
        table = resize_positions(self.position_embedding.detach()[0], tokens)
        trained = self.position_embedding.requires_grad
        self.position_embedding = nn.Parameter(table[None].clone(), requires_grad=trained)


class Layers(nn.Module):
    """A holder of layers, for the released parameter names."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class VisionTransformer(nn.Module):
    """Images -> states of [CLS] and patches.

    eps: of every LayerNorm. drop_path: that of the last layer; it grows linearly from 0. fused: whether query, key and
    value are one weight.
    """

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        width: int,
        layers: int,
        heads: int,
        mlp_ratio: float,
        attention: str,
        eps: float = EPS,
        drop_path: float = 0.0,
        stem: str = "patch",
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.embeddings = PatchEmbeddings(width, image_size, patch_size, stem)
        rates = [drop_path * i / max(1, layers - 1) for i in range(layers)]
        blocks = [ViTLayer(width, heads, mlp_ratio, attention, rate, eps=eps, fused=fused) for rate in rates]
        self.encoder = Layers(blocks)  # pyright: ignore[reportArgumentType]
        self.post_layernorm = nn.LayerNorm(width, eps=eps)
        self.apply(init_linear)

    def forward(self, images: Tensor) -> Tensor:
        """(m, 3, h, w) -> (m, 1 + n, d); row 0 is [CLS]."""
        x = self.embeddings(images)
        for layer in self.encoder.layers:
            x = layer(x)
        return self.post_layernorm(x)
