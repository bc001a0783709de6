"""The embedded world: images, captions, regions and questions drawn by code from a seed, in disjoint splits.

A scene belongs to a split by what it shows (a hash of its content), not by when it was drawn: no scene of one split can
be described like a scene of another. A key spells its scene out, so that any process can open it.
"""

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from vlp_bench.data.records import CaptionedImage, Question, RegionCaption, RegionImage
from vlp_bench.data.shapes.drawing import SIDE, boxes, draw
from vlp_bench.data.shapes.phrases import KINDS, Phrase, caption, noun_phrase, question
from vlp_bench.data.shapes.scenes import ATTRIBUTES, MOST, Catalogue, Partial, Scene, Thing, draw_scene, is_true, twin

SPLITS = {
    "pretrain": range(50),
    "calibration_general": range(50, 55),
    "calibration_region": range(55, 60),
    "itr_train": range(60, 68),
    "itr_val": range(68, 70),
    "itr_test": range(70, 73),
    "ic_train": range(73, 81),
    "ic_val": range(81, 83),
    "ic_test": range(83, 86),
    "vqa_train": range(86, 94),
    "vqa_val": range(94, 96),
    "vqa_test": range(96, 99),
}
"""Split -> the content buckets (of 100) its scenes come from."""


def key(scene: Scene) -> str:
    """The scene as a string: its look, then six digits a thing."""
    things = (f"{t.shape}{t.colour}{t.size}{t.texture}{t.row}{t.col}" for t in scene.things)
    return "-".join(("shapes", str(scene.look), *things))


def parse(key: str) -> Scene:
    """The scene a key spells out; ValueError if it spells none."""
    head, *rest = key.split("-")
    try:
        look, things = int(rest[0]), tuple(Thing(*map(int, t)) for t in rest[1:])
    except (ValueError, IndexError, TypeError):
        raise ValueError(f"{key!r} is no address of the embedded world (shapes-<look>-<six digits a thing>)") from None
    if head != "shapes" or not 1 <= len(things) <= MOST:
        raise ValueError(f"{key!r} is no address of the embedded world: it needs 1 to {MOST} things")
    return Scene(things, look)


def is_address(key: str) -> bool:
    """Whether a key spells out a scene."""
    try:
        parse(key)
    except ValueError:
        return False
    return True


class World:
    """The embedded world of one seed. It is an image source: `open(key)` draws what the key spells out."""

    size = (SIDE, SIDE)

    def __init__(self, seed: int = 0) -> None:
        if seed < 0:
            raise ValueError(f"the seed of the world must be 0 or more, got {seed}")
        self.seed = seed

    def open(self, key: str) -> Image.Image:
        """The image, 48x48 RGB."""
        return Image.fromarray(draw(parse(key)))

    def rng(self, split: str, *where: int) -> np.random.Generator:
        """The generator of one place in a split."""
        if split not in SPLITS:
            raise ValueError(f"no split {split!r} in the embedded world; it has {', '.join(SPLITS)}")
        return np.random.default_rng((self.seed, list(SPLITS).index(split), *where))

    def scene(self, split: str, rng: np.random.Generator, fewest: int = 1, most: int = MOST) -> Scene:
        """A scene whose content belongs to the split."""
        return _belonging(split, lambda: draw_scene(rng, fewest, most))

    def captioned(self, split: str, index: int, fewest: int = 1, most: int = MOST) -> tuple[Scene, list[Phrase]]:
        """Scene number `index` with its five captions, one of each kind."""
        rng = self.rng(split, index, most)
        scene = self.scene(split, rng, fewest, most)
        return scene, [caption(scene, kind, rng) for kind in range(len(KINDS))]

    def images(self, split: str, n: int) -> list[CaptionedImage]:
        """`n` images with five true captions each."""
        return [_record(*self.captioned(split, i)) for i in range(n)]

    def pair(self, split: str, index: int, attribute: str, most: int = MOST) -> tuple[Scene, Scene]:
        """A scene and its twin in `attribute`, both of the split."""
        rng = self.rng(split, index, ATTRIBUTES.index(attribute), 77)
        while True:
            scene = self.scene(split, rng, 1 if attribute != "relation" else 2, max(most, 2))
            for _ in range(200):
                other = twin(scene, attribute, rng)
                if other is not None and other.bucket() in SPLITS[split]:
                    return scene, other

    def contrast(self, split: str, index: int, attribute: str, most: int = MOST) -> list[tuple[Scene, Phrase]]:
        """A scene and its twin in `attribute`, each with a caption that is, where words allow, false of the other."""
        scenes = self.pair(split, index, attribute, most)
        rng = self.rng(split, index, 78)
        return [(scene, _against(scene, other, rng)) for scene, other in (scenes, scenes[::-1])]

    def gallery(self, split: str, n: int, twins: float = 0.2) -> list[CaptionedImage]:
        """`n` images with five captions each, none of which is true of two images.

        A share `twins` of the images has a hard negative in the gallery that differs in one attribute, every attribute
        in turn. Scenes that cannot be told apart in words are dropped and drawn anew.
        """
        return [_record(scene, phrases) for scene, phrases in self.told_apart(split, n, twins)]

    def told_apart(self, split: str, n: int, twins: float = 0.2) -> list[tuple[Scene, list[Phrase]]]:
        """As `gallery`, with scenes and logical forms."""
        rng = self.rng(split, n, 7)
        pairs = round(n * twins / 2)
        scenes = [s for i in range(pairs) for s in self.pair(split, i, ATTRIBUTES[i % len(ATTRIBUTES)])]
        told: dict[Scene, list[Phrase]] = {}
        while True:
            scenes += [self.scene(split, rng) for _ in range(n - len(scenes))]
            catalogue = Catalogue(scenes)
            for i, scene in enumerate(scenes):
                told[scene] = _told(scene, told.get(scene, []), i, catalogue, rng)
            complete = [s for s in scenes if len(told[s]) == len(KINDS)]
            if len(complete) == n:
                return [(s, told[s]) for s in scenes]
            scenes = complete

    def region_images(self, split: str, n: int) -> list[RegionImage]:
        """`n` images with a captioned box for every thing."""
        return [self.regions(split, i) for i in range(n)]

    def regions(self, split: str, index: int, fewest: int = 1, most: int = MOST) -> RegionImage:
        """Image number `index` with a captioned box for every thing."""
        rng = self.rng(split, index, most, 5)
        scene = self.scene(split, rng, fewest, most)
        return RegionImage(key(scene), tuple(_regions(scene, rng)), self.size)

    def questions(self, split: str, n: int) -> list[Question]:
        """`n` questions, each about an image of its own."""
        return [self._question(split, i) for i in range(n)]

    def _question(self, split: str, index: int) -> Question:
        rng = self.rng(split, index, 3)
        scene = self.scene(split, rng)
        return question(scene, key(scene), index, rng)


def _belonging(split: str, drawn: Callable[[], Scene]) -> Scene:
    while True:
        scene = drawn()
        if scene.bucket() in SPLITS[split]:
            return scene


def _record(scene: Scene, phrases: list[Phrase]) -> CaptionedImage:
    address = key(scene)
    return CaptionedImage(address, tuple(p.text for p in phrases), address)


def _regions(scene: Scene, rng: np.random.Generator) -> Iterator[RegionCaption]:
    for thing, box in zip(scene.things, boxes(scene), strict=True):
        named = Partial(thing.shape, thing.colour, thing.size, thing.texture)
        words = [("a", None), *noun_phrase(named, rng)]
        yield RegionCaption(" ".join(w for w, _ in words), box)


def _against(scene: Scene, other: Scene, rng: np.random.Generator, tries: int = 15) -> Phrase:
    """A caption of `scene` that is false of `other` if one is found in time."""
    first = int(rng.integers(len(KINDS)))
    for attempt in range(tries):
        phrase = caption(scene, first + attempt // 3, rng, detail=min(1.0, 0.2 + attempt / 8))
        if not is_true(phrase.form, other):
            break
    return phrase


def _told(
    scene: Scene, before: list[Phrase], at: int, catalogue: Catalogue, rng: np.random.Generator, tries: int = 80
) -> list[Phrase]:
    """Five captions true of this scene of the catalogue alone, more and more detailed; fewer if words do not suffice.

    Captions found `before` are kept where they still single the scene out.
    """
    found = [p for p in before if catalogue.true_of(p.form).sum() == 1]
    for attempt in range(tries):
        if len(found) == len(KINDS):
            break
        kind = len(found) + max(0, attempt - 8)  # its own kind first, then whichever kind can tell it apart
        phrase = caption(scene, kind, rng, detail=min(1.0, 0.3 + attempt / 20))
        alone = catalogue.true_of(phrase.form)
        if not alone[at]:
            raise AssertionError(f"{phrase.text!r} is not true of its own scene {key(scene)}")
        if alone.sum() == 1 and phrase.text not in {p.text for p in found}:
            found.append(phrase)
    return found
