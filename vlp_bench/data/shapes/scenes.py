"""The symbols behind the embedded world: things on a 3x3 grid, how they relate, and when a statement is true of them.

Everything random is drawn from a generator the caller owns. Truth is decided on symbols, never on strings: of captions
drawn without looking, a tenth to a quarter is also true of another of 500 images.
"""

import zlib
from dataclasses import dataclass, fields, replace
from operator import attrgetter

import numpy as np

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
COLOURS = ("red", "brown", "yellow", "green", "cyan", "blue", "purple", "pink")
SIZES = ("small", "large")
TEXTURES = ("solid", "striped")
RELATIONS = ("left", "right", "above", "below")
ATTRIBUTES = ("colour", "shape", "size", "texture", "relation", "count")
"""What one hard negative differs in, and what the acceptance gate measures word by word."""
GRID = 3
MOST = 4
"""Most things in a scene."""

_DOMAIN = {"shape": len(SHAPES), "colour": len(COLOURS), "size": len(SIZES), "texture": len(TEXTURES)}


@dataclass(frozen=True)
class Thing:
    """One thing: indices into SHAPES, COLOURS, SIZES and TEXTURES, and its cell."""

    shape: int
    colour: int
    size: int
    texture: int
    row: int
    col: int


_EVERYTHING = attrgetter(*(field.name for field in fields(Thing)))


@dataclass(frozen=True)
class Partial:
    """What a phrase says of a thing; None where it is silent."""

    shape: int | None = None
    colour: int | None = None
    size: int | None = None
    texture: int | None = None
    row: int | None = None
    col: int | None = None


@dataclass(frozen=True)
class Form:
    """The logical form of a caption.

    True of a scene with `total` things (None: any number), in which for every (partial, n) of `counts` exactly n things
    match, and in which distinct things match `things`, the first standing in `relation` to the second if one is given.
    """

    things: tuple[Partial, ...] = ()
    relation: int | None = None
    total: int | None = None
    counts: tuple[tuple[Partial, int], ...] = ()


@dataclass(frozen=True)
class Scene:
    """One to MOST things in distinct cells; `look` seeds what words do not say (background, jitter)."""

    things: tuple[Thing, ...]
    look: int

    def bucket(self) -> int:
        """A number from 0 to 99 that depends on what is shown only: splits own disjoint ranges of it."""
        text = repr(sorted(map(_EVERYTHING, self.things)))
        return zlib.crc32(text.encode()) % 100


def relation(a: Thing, b: Thing) -> int | None:
    """Index into RELATIONS of how `a` stands to `b`, on the axis where they are further apart; None on a diagonal."""
    down, across = a.row - b.row, a.col - b.col
    if abs(down) == abs(across):
        return None
    if abs(across) > abs(down):
        return 0 if across < 0 else 1
    return 2 if down < 0 else 3


def draw_scene(rng: np.random.Generator, fewest: int = 1, most: int = MOST) -> Scene:
    """A scene of `fewest` to `most` things, every attribute uniform."""
    n = int(rng.integers(fewest, most + 1))
    cells = rng.permutation(GRID * GRID)[:n]
    things = tuple(
        Thing(*(int(rng.integers(k)) for k in _DOMAIN.values()), row=int(c) // GRID, col=int(c) % GRID) for c in cells
    )
    return Scene(things, int(rng.integers(2**31)))


def twin(scene: Scene, attribute: str, rng: np.random.Generator) -> Scene | None:
    """A hard negative: the scene with one `attribute` of one thing changed, drawn on another background.

    For "relation" two things change places; for "count" one thing comes or goes. None where that would change nothing.
    """
    look = int(rng.integers(2**31))
    things = list(scene.things)
    i = int(rng.integers(len(things)))
    if attribute == "count":
        return _count_twin(things, i, look, rng)
    if attribute == "relation":
        return _relation_twin(things, look, rng)
    step = int(rng.integers(1, _DOMAIN[attribute]))
    things[i] = replace(things[i], **{attribute: (getattr(things[i], attribute) + step) % _DOMAIN[attribute]})
    return Scene(tuple(things), look)


def _count_twin(things: list[Thing], i: int, look: int, rng: np.random.Generator) -> Scene:
    if len(things) == MOST or (len(things) > 1 and rng.random() < 0.5):
        return Scene(tuple(t for k, t in enumerate(things) if k != i), look)
    taken = {(t.row, t.col) for t in things}
    free = [(r, c) for r in range(GRID) for c in range(GRID) if (r, c) not in taken]
    row, col = free[int(rng.integers(len(free)))]
    return Scene((*things, replace(things[i], row=row, col=col)), look)


def _relation_twin(things: list[Thing], look: int, rng: np.random.Generator) -> Scene | None:
    pairs = [
        (i, j)
        for i in range(len(things))
        for j in range(i)
        if relation(things[i], things[j]) is not None and _kind(things[i]) != _kind(things[j])
    ]
    if not pairs:
        return None
    i, j = pairs[int(rng.integers(len(pairs)))]
    a, b = things[i], things[j]
    things[i], things[j] = replace(a, row=b.row, col=b.col), replace(b, row=a.row, col=a.col)
    return Scene(tuple(things), look)


def _kind(thing: Thing) -> tuple[int, int, int, int]:
    return thing.shape, thing.colour, thing.size, thing.texture


class Catalogue:
    """Scenes as arrays, so that one form is checked against all of them at once.

    `columns`: (scenes, MOST) int per attribute, -1 where a scene has fewer things; `pairs`: for every relation (None:
    any) (scenes, MOST, MOST) bool, which distinct things stand so.
    """

    def __init__(self, scenes: list[Scene]) -> None:
        self.columns = {f.name: np.full((len(scenes), MOST), -1, np.int8) for f in fields(Thing)}
        self.totals = np.array([len(s.things) for s in scenes])
        relations = np.full((len(scenes), MOST, MOST), -1, np.int8)
        for n, scene in enumerate(scenes):
            self._enter(n, scene.things, relations)
        self.present = self.columns["shape"] >= 0
        self.pairs: dict[int | None, np.ndarray] = {r: relations == r for r in range(len(RELATIONS))}
        self.pairs[None] = np.broadcast_to(~np.eye(MOST, dtype=bool), relations.shape)

    def _enter(self, n: int, things: tuple[Thing, ...], relations: np.ndarray) -> None:
        for i, a in enumerate(things):
            for name, column in self.columns.items():
                column[n, i] = getattr(a, name)
            for j, b in enumerate(things):
                r = relation(a, b) if i != j else None
                relations[n, i, j] = -1 if r is None else r

    def matches(self, partial: Partial) -> np.ndarray:
        """(scenes, MOST) bool: which things are as `partial` says."""
        found = self.present
        for name, column in self.columns.items():
            wanted = getattr(partial, name)
            if wanted is not None:
                found = found & (column == wanted)
        return found

    def true_of(self, form: Form) -> np.ndarray:
        """(scenes,) bool: of which scenes the form is true."""
        truth = np.ones(len(self.totals), bool) if form.total is None else self.totals == form.total
        for partial, n in form.counts:
            truth &= self.matches(partial).sum(1) == n
        if len(form.things) == 1:
            truth &= self.matches(form.things[0]).any(1)
        if len(form.things) == 2:
            first, second = (self.matches(p) for p in form.things)
            truth &= (first[:, :, None] & second[:, None, :] & self.pairs[form.relation]).any((1, 2))
        return truth


def is_true(form: Form, scene: Scene) -> bool:
    """Whether the form is true of one scene."""
    return bool(Catalogue([scene]).true_of(form)[0])
