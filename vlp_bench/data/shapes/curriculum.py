"""The embedded world's pre-training stream: batch number n, from single things to full scenes, half of them twins.

Batch n depends on the seed and n alone, so a resumed run sees what the undisturbed one would have seen.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from torch.utils.data import Dataset, Sampler

from vlp_bench.batch import Batch
from vlp_bench.data.items import Collate, Item, region_item
from vlp_bench.data.shapes.drawing import SIDE, draw
from vlp_bench.data.shapes.phrases import COLUMNS, NUMBERS, ROWS, Phrase, vocabulary
from vlp_bench.data.shapes.scenes import ATTRIBUTES, COLOURS, MOST, RELATIONS, SHAPES, SIZES, TEXTURES, Scene
from vlp_bench.data.shapes.world import World
from vlp_bench.data.text import Masker, make_tokenizer
from vlp_bench.data.transforms.images import Eval

PATCH = 8
"""Pixels per patch and axis of the small models."""


WHERE = (*RELATIONS, *NUMBERS, *ROWS, *COLUMNS)
"""Words that say where things are and how many."""
WHAT = (*SHAPES, *COLOURS, *SIZES, *TEXTURES)
"""Words that say what a thing is."""


def word_ids(words: Iterable[str]) -> frozenset[int]:
    """Their token ids."""
    known = vocabulary()
    return frozenset(known[w] for w in words)


CONTINUED = {"named": 0.0, "double": 0.0, "aligned": 0.0, "where": 0.0}
"""A curriculum for a model that knows its words: all losses and all kinds of batches from the first step."""
CAPTIONS = {"named": 0.0, "double": 0.0, "aligned": 0.0, "where": 1.0, "region_every": 0, "sep": True}
"""One for BLIP: captions of scenes alone, each ended by [SEP]."""


@dataclass
class Remaining(Sampler[int]):
    """The numbers of the batches that a resumed run has still to see, of `steps` in all.

    Its length is that of the whole: a resumed Trainer has counted the first `done` already.
    """

    done: int
    steps: int

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.done, self.steps))

    def __len__(self) -> int:
        return self.steps


@dataclass
class Curriculum(Dataset[Batch]):
    """`steps` batches of `batch_size` captions.

    Until share `named` of the steps every batch describes regions: what a thing is called, seen alone. After that
    every `region_every`-th does, and scenes have at most two things until `double`; from there half of the batches
    have at most two until half of the run, and then all have up to four. A share `twins` of every batch of scenes is
    pairs that differ in one attribute.

    From `where` on, every second batch hides only the words of WHERE, all of them, and its twins differ in how things
    stand to each other. While half of what names two things is hidden too, nobody can say how they stand to each other:
    2,500 such steps taught no place (LOG.md).

    `sep`: captions end with [SEP], as a model that writes them needs. `words_only(step)` tells which batches are for
    MLM alone: all until `aligned`, since the losses of alignment keep a model that knows nothing from learning what
    words mean, and those that hide where things are.
    """

    steps: int
    batch_size: int = 96
    seed: int = 0
    region_every: int = 5
    regions: int = 2
    named: float = 0.08
    double: float = 0.25
    aligned: float = 0.25
    twins: float = 0.5
    mask: float = 0.12
    mask_attributes: float = 0.45
    where: float = 0.4545
    sep: bool = False

    def __post_init__(self) -> None:
        self.world, self.transform = World(self.seed), Eval(SIDE)
        tokenizer = make_tokenizer(vocabulary(), sep=self.sep)
        all_words = Masker(tokenizer, self.mask, 8, word_ids(WHAT + WHERE), self.mask_attributes)
        self.collate = Collate(tokenizer, masker=all_words, side=SIDE // PATCH)
        self.collate_where = replace(self.collate, masker=Masker(tokenizer, 0.0, 8, word_ids(WHERE), 1.0))

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng((self.seed, step, 11))
        most = self._most(step, rng)
        if self._is_region(step):
            numbers = self._numbers(self.batch_size // self.regions, rng)
            return self.collate([self._region(int(i), most) for i in numbers])
        collate = self.collate_where if self._hides_where(step) else self.collate
        attributes = ("relation",) if collate is self.collate_where else ATTRIBUTES
        return collate([self._item(s, p, rng) for s, p in self._scenes(most, attributes, rng)])

    def words_only(self, step: int) -> bool:
        """Whether the batch of this step is for MLM alone."""
        return step < self.aligned * self.steps or (self._hides_where(step) and not self._is_region(step))

    def _hides_where(self, step: int) -> bool:
        return step >= self.where * self.steps and step % 2 == 1

    def _is_region(self, step: int) -> bool:
        every = self.region_every
        return step < self.named * self.steps or (every > 0 and step % every == every - 1)

    def _most(self, step: int, rng: np.random.Generator) -> int:
        done = step / self.steps
        if self.named <= done < self.double or (done < 0.5 and rng.random() < 0.5):
            return 2
        return MOST

    def _numbers(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return rng.integers(2**40, size=n)

    def _scenes(self, most: int, attributes: tuple[str, ...], rng: np.random.Generator) -> list[tuple[Scene, Phrase]]:
        pairs = round(self.twins * self.batch_size / 2)
        told = []
        for n, i in enumerate(self._numbers(pairs, rng)):
            told += self.world.contrast("pretrain", int(i), attributes[n % len(attributes)], most)
        for i in self._numbers(self.batch_size - 2 * pairs, rng):
            scene, phrases = self.world.captioned("pretrain", int(i), most=most)
            told.append((scene, phrases[int(rng.integers(len(phrases)))]))
        return told

    def _item(self, scene: Scene, phrase: Phrase, rng: np.random.Generator) -> Item:
        image = self.transform(Image.fromarray(draw(scene)), rng)
        return Item(image, (phrase.text,), int(rng.integers(2**62)), int(rng.integers(2**31)))

    def _region(self, index: int, most: int) -> Item:
        record = self.world.regions("pretrain", index, most=most)
        rng = np.random.default_rng((self.seed, index, 13))
        chosen = [record.regions[int(k)] for k in rng.permutation(len(record.regions))[: self.regions]]
        image = self.transform(self.world.open(record.image), rng)
        return region_item(image, chosen, record.size, index, int(rng.integers(2**31)))
