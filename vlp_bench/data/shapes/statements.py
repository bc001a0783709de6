"""Statements about two pictures of the embedded world, in NLVR2's form: a sentence, and whether it is true of them.

Every sentence is said of two pairs, true of one and false of the other, so that no answer can be read off its words.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice

import numpy as np

from vlp_bench.data.records import ImagePair
from vlp_bench.data.shapes.phrases import KINDS, NUMBERS, caption, noun_phrase
from vlp_bench.data.shapes.scenes import ATTRIBUTES, Catalogue, Form, Partial, Scene, is_true, twin
from vlp_bench.data.shapes.world import SPLITS, World, key

Pair = tuple[Scene, Scene]
_SIDES = ("left", "right")
LONGEST = 46
"""Most words of a sentence: with [CLS] and [SEP] what the small models have positions for."""


@dataclass(frozen=True)
class Statement:
    """A sentence and its logical form: `claims` are true of the left (0) or right (1) picture, `total` counts in both.

    `total`: what is counted, and how often it is there in the two pictures together.
    """

    text: str
    claims: tuple[tuple[int, Form], ...] = ()
    total: tuple[Partial, int] | None = None

    def true_of(self, pair: Pair) -> bool:
        """Whether it is true of the left and the right picture."""
        if self.total is not None and _together(self.total[0], pair) != self.total[1]:
            return False
        return all(is_true(form, pair[side]) for side, form in self.claims)


def statements(world: World, split: str, n: int) -> list[ImagePair]:
    """`n` statements about two scenes of a split each; every second one is false."""
    return list(islice((record for number in count() for record in _both(world, split, number)), n))


def _both(world: World, split: str, number: int) -> Iterator[ImagePair]:
    """Sentence `number` of a split with a pair it is true of, and with one it is false of."""
    rng = world.rng(split, number, 9)
    while True:
        pair = (world.scene(split, rng), world.scene(split, rng))
        said = statement(pair, rng)
        wrong = contradicting(said, pair, world, split, rng) if said is not None else None
        if said is not None and wrong is not None:
            break
    for label, (left, right) in ((True, pair), (False, wrong)):
        images = (key(left), key(right))
        yield ImagePair(images, said.text, label, f"{split}-{number}-{label}", f"{split}-{number}")


def statement(pair: Pair, rng: np.random.Generator) -> Statement | None:
    """A true one: of one picture, of each of them, or of how many there are in both; None if words lack."""
    kind = int(rng.integers(4))
    if kind == 3:
        return _counted(pair, rng)
    sides = (0, 1) if kind == 2 else (int(rng.integers(2)),)
    phrases = [caption(pair[side], int(rng.integers(len(KINDS))), rng) for side in sides]
    text = " and ".join(f"in the {_SIDES[side]} picture {p.text}" for side, p in zip(sides, phrases, strict=True))
    text = text.replace("the picture shows", "there is")
    if len(text.split()) > LONGEST:
        return None
    return Statement(text, tuple((side, p.form) for side, p in zip(sides, phrases, strict=True)))


def _counted(pair: Pair, rng: np.random.Generator) -> Statement | None:
    thing = pair[int(rng.integers(2))].things[0]
    named = ("shape", "colour")[int(rng.integers(2))]
    counted = Partial(**{named: getattr(thing, named)})
    n = _together(counted, pair)
    if n > len(NUMBERS):
        return None
    words = " ".join(word for word, _ in noun_phrase(counted, rng, plural=True))
    return Statement(f"the number of {words} in all is {NUMBERS[n - 1]}", total=(counted, n))


def _together(counted: Partial, pair: Pair) -> int:
    return int(Catalogue(list(pair)).matches(counted).sum())


def contradicting(said: Statement, pair: Pair, world: World, split: str, rng: np.random.Generator) -> Pair | None:
    """Two scenes of the split of which the statement is false: the pair the other way round, or with one of its scenes
    changed in one attribute or drawn anew; None if none was found in time."""
    for _ in range(20):
        side, how = int(rng.integers(2)), int(rng.integers(3))
        if how == 0:
            other = (pair[1], pair[0])
        else:
            new = world.scene(split, rng) if how == 1 else _twin(pair[side], split, rng)
            if new is None:
                continue
            other = (new, pair[1]) if side == 0 else (pair[0], new)
        if not said.true_of(other):
            return other
    return None


def _twin(scene: Scene, split: str, rng: np.random.Generator) -> Scene | None:
    other = twin(scene, ATTRIBUTES[int(rng.integers(len(ATTRIBUTES)))], rng)
    return other if other is not None and other.bucket() in SPLITS[split] else None
