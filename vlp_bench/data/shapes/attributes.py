"""What a scene shows, one attribute at a time: the labels on which the embedded world's small ViT is trained.

They say which shapes, colours, sizes and textures appear and which cells are taken, never which of them go together,
which is what classification (`labelled`) then asks.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from vlp_bench.data.shapes.drawing import SIDE, draw
from vlp_bench.data.shapes.scenes import COLOURS, GRID, SHAPES, SIZES, TEXTURES, Scene
from vlp_bench.data.shapes.world import World
from vlp_bench.data.transforms.images import Eval

PARTS = {"shape": len(SHAPES), "colour": len(COLOURS), "size": len(SIZES), "texture": len(TEXTURES), "cell": GRID**2}
"""Kinds of attribute, each with its number of labels, in their order among the labels."""
LABELS = sum(PARTS.values())


def attributes(scene: Scene) -> Tensor:
    """(27,) float32, 1 = appears in the scene."""
    present = torch.zeros(LABELS)
    for thing in scene.things:
        first = 0
        values = (thing.shape, thing.colour, thing.size, thing.texture, thing.row * GRID + thing.col)
        for value, size in zip(values, PARTS.values(), strict=True):
            present[first + value] = 1
            first += size
    return present


@dataclass
class AttributeBatches(Dataset[tuple[Tensor, Tensor]]):
    """`steps` batches of scenes of one split: (b, 3, 48, 48) images and (b, 27) attributes.

    Batch n depends on the seed and n alone.
    """

    steps: int
    batch_size: int = 64
    split: str = "pretrain"
    seed: int = 0

    def __post_init__(self) -> None:
        self.world, self.transform = World(self.seed), Eval(SIDE)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        if not 0 <= step < self.steps:
            raise IndexError(step)
        rng = np.random.default_rng((self.seed, step, 27))
        scenes = [self.world.scene(self.split, rng) for _ in range(self.batch_size)]
        images = [self.transform(Image.fromarray(draw(scene)), rng) for scene in scenes]
        return torch.stack(images), torch.stack([attributes(scene) for scene in scenes])
