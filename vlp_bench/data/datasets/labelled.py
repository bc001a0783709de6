"""Images with a class: the embedded world's, and what any other source has to say.

In the embedded world an image shows one large thing, among up to two small ones; its class is that thing's shape and
colour.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from vlp_bench.data.datasets.sources import Split
from vlp_bench.data.records import LabelledImage
from vlp_bench.data.shapes.drawn_once import drawn_once
from vlp_bench.data.shapes.scenes import COLOURS, SHAPES, SIZES, Scene, draw_scene
from vlp_bench.data.shapes.world import SPLITS as WORLD_SPLITS
from vlp_bench.data.shapes.world import World, key

SPLITS = {"train": "itr_train", "val": "itr_val", "test": "itr_test", "calibration": "calibration_general"}
"""Split of a labelled data set -> the split of the embedded world its scenes come from."""
CLASSES = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)
SMALL, LARGE = map(SIZES.index, ("small", "large"))
MOST = 3
"""Most things in a labelled scene."""


class LabelledSource(Protocol):
    """A labelled data set and what a model is calibrated on before it is pruned."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes, by label."""
        ...

    def labelled(self, split: str) -> Split[LabelledImage]:
        """ "train", "val", "test" or "calibration"."""
        ...

    def fingerprint(self, *splits: str) -> str:
        """Hash of the content of the named splits."""
        ...


def label_of(scene: Scene) -> int:
    """Class of a scene with one large thing; ValueError for any other."""
    large = [thing for thing in scene.things if thing.size == LARGE]
    if len(large) != 1:
        raise ValueError(f"{key(scene)} shows {len(large)} large things, a labelled scene shows one")
    return large[0].shape * len(COLOURS) + large[0].colour


@drawn_once
def _drawn(world: int, split: str, n: int) -> tuple[LabelledImage, ...]:
    """`n` labelled scenes, every class as often as any other up to one."""
    source = World(world)
    scenes = [_scene(source, SPLITS[split], i) for i in range(n)]
    return tuple(LabelledImage(key(scene), label_of(scene)) for scene in scenes)


def _scene(world: World, split: str, index: int) -> Scene:
    """Scene number `index` of a split: of class `index` modulo 48."""
    rng, (shape, colour) = world.rng(split, index, 48), divmod(index % len(CLASSES), len(COLOURS))
    while True:
        first, *rest = (scene := draw_scene(rng, 1, MOST)).things
        large = replace(first, shape=shape, colour=colour, size=LARGE)
        scene = Scene((large, *(replace(thing, size=SMALL) for thing in rest)), scene.look)
        if scene.bucket() in WORLD_SPLITS[split]:
            return scene


class ShapesLabelled:
    """Classification in the embedded world: 48 classes, one for every shape and colour.

    Args:
        train, val, test, calibration: how many images each split has.
        world: seed of the world. It is not the run's: all runs see the same data.

    Raises:
        ValueError: a number is below 1.
    """

    classes: Sequence[str] = CLASSES

    def __init__(self, *, train: int, val: int, test: int, calibration: int, world: int = 0) -> None:
        self.sizes = {"train": train, "val": val, "test": test, "calibration": calibration}
        for name, size in self.sizes.items():
            if size < 1:
                raise ValueError(f"the embedded world's {name} split needs at least 1 image, got {size}")
        self.world = World(world)

    def labelled(self, split: str) -> Split[LabelledImage]:
        if split not in SPLITS:
            raise ValueError(f"a labelled split is one of {', '.join(SPLITS)}, got {split!r}")
        return Split(_drawn(self.world.seed, split, self.sizes[split]), self.world)

    def fingerprint(self, *splits: str) -> str:
        """Hash of every record and of the first drawn image of each split: a change of the world's code shows."""
        total = hashlib.sha256()
        for name in splits:
            split = self.labelled(name)
            total.update(repr(split.records).encode())
            total.update(np.asarray(split.images.open(split.records[0].image)).tobytes())
        return total.hexdigest()[:16]
