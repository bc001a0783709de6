"""Saying what is in a scene: captions with their logical form, and questions with ten answers in VQAv2's form."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vlp_bench.data.records import Question
from vlp_bench.data.shapes.scenes import (
    COLOURS,
    MOST,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    Catalogue,
    Form,
    Partial,
    Scene,
    Thing,
    is_true,
    relation,
)

NUMBERS = ("one", "two", "three", "four")
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "centre", "right")
_NOUNS = ("shape", "thing")
_BEFORE = ((), ("there", "is"), ("we", "see"), ("the", "picture", "shows"))
_OTHER = (
    "a the is are there we see picture shows of to in all with at on its it and what how many number "
    "circles squares triangles diamonds crosses rings shape shapes thing things colour yes no 0 1 2 3 4"
)
WORDS = tuple(
    dict.fromkeys((*SHAPES, *COLOURS, *SIZES, *TEXTURES, *RELATIONS, *NUMBERS, *ROWS, *COLUMNS, *_OTHER.split()))
)
"""Every word of the embedded world; its vocabulary is these and BERT's five special tokens."""

Words = list[tuple[str, str | None]]
"""Words, each with the attribute it names (one of ATTRIBUTES, "position") or None."""


@dataclass(frozen=True)
class Phrase:
    """A caption: its words, the attribute each of them names, and when it is true."""

    words: tuple[str, ...]
    tags: tuple[str | None, ...]
    form: Form

    @property
    def text(self) -> str:
        """The caption as a string."""
        return " ".join(self.words)


def vocabulary() -> dict[str, int]:
    """Word -> id, special tokens first, as in a vocab.txt of BERT."""
    return {w: i for i, w in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS))}


def _plain(text: str) -> Words:
    return [(w, None) for w in text.split()]


def partial(thing: Thing, rng: np.random.Generator, detail: float) -> Partial:
    """Part of a thing: each attribute named with a probability that grows with `detail` (0..1); never nothing."""
    named = rng.random(4) < np.array([0.7, 0.75, 0.4, 0.4]) + detail * np.array([0.3, 0.25, 0.6, 0.6])
    if not named[:2].any():
        named[int(rng.integers(2))] = True
    values = (thing.shape, thing.colour, thing.size, thing.texture)
    return Partial(*(v if n else None for v, n in zip(values, named, strict=True)))


def noun_phrase(p: Partial, rng: np.random.Generator, plural: bool = False) -> Words:
    """ "small striped red circle"; a generic noun where the shape is not named."""
    words: Words = []
    if p.size is not None:
        words.append((SIZES[p.size], "size"))
    if p.texture is not None:
        words.append((TEXTURES[p.texture], "texture"))
    if p.colour is not None:
        words.append((COLOURS[p.colour], "colour"))
    noun = _NOUNS[int(rng.integers(2))] if p.shape is None else SHAPES[p.shape]
    return [*words, (_plural(noun) if plural else noun, None if p.shape is None else "shape")]


def _plural(noun: str) -> str:
    return noun + ("es" if noun.endswith("s") else "s")


def _related(scene: Scene, rng: np.random.Generator) -> tuple[Thing, int, Thing] | None:
    pairs = [(a, r, b) for a in scene.things for b in scene.things if a is not b and (r := relation(a, b)) is not None]
    return pairs[int(rng.integers(len(pairs)))] if pairs else None


def _say_relation(a: Words, r: int, b: Words, rng: np.random.Generator) -> Words:
    word, style = (RELATIONS[r], "relation"), int(rng.integers(3))
    beside = r < 2
    if style == 0:
        return [*_before(rng), ("a", None), *a, word, *_plain("of" if beside else ""), ("a", None), *b]
    if style == 1:
        middle = [*_plain("is to the"), word, *_plain("of")] if beside else [*_plain("is"), word]
        return [("the", None), *a, *middle, ("the", None), *b]
    tail = [*_plain("on its"), word] if beside else [word, *_plain("it")]
    return [*_before(rng), ("a", None), *b, *_plain("with a"), *a, *tail]


def _before(rng: np.random.Generator) -> Words:
    return [(w, None) for w in _BEFORE[int(rng.integers(len(_BEFORE)))]]


def _relation(scene: Scene, rng: np.random.Generator, detail: float) -> Phrase | None:
    found = _related(scene, rng)
    if found is None:
        return None
    a, r, b = found
    pa, pb = partial(a, rng, detail), partial(b, rng, detail)
    words = _say_relation(noun_phrase(pa, rng), r, noun_phrase(pb, rng), rng)
    return _phrase(words, Form((pa, pb), r))


def _position(scene: Scene, rng: np.random.Generator, detail: float) -> Phrase:
    thing = scene.things[int(rng.integers(len(scene.things)))]
    p = partial(thing, rng, detail)
    where: Words = [*_plain("at the"), (ROWS[thing.row], "position"), (COLUMNS[thing.col], "position")]
    what: Words = [("a", None), *noun_phrase(p, rng)]
    words = [*_before(rng), *what, *where] if rng.random() < 0.5 else [*where, *_before(rng), *what]
    located = Partial(p.shape, p.colour, p.size, p.texture, thing.row, thing.col)
    return _phrase(words, Form((located,)))


def _total(scene: Scene, rng: np.random.Generator, detail: float) -> Phrase:
    """A relation or a position, and how many things there are in all."""
    inner = (_relation(scene, rng, detail) if rng.random() < 0.7 else None) or _position(scene, rng, detail)
    body: Words = list(zip(inner.words, inner.tags, strict=True))
    n = len(scene.things)
    count: Words = [(NUMBERS[n - 1], "count"), *_plain("in all")]
    words = [*count, ("and", None), *body] if rng.random() < 0.5 else [*body, ("and", None), *count]
    return _phrase(words, Form(inner.form.things, inner.form.relation, n, inner.form.counts))


def _counts(scene: Scene, rng: np.random.Generator, detail: float) -> Phrase:
    """How many things share an attribute, and how many share another; always in the plural, which tells no number."""
    picks = [_shared(scene, rng, detail) for _ in range(2 if rng.random() < 0.4 + 0.6 * detail else 1)]
    words: Words = _plain("the number")
    counts = []
    for n, p in enumerate(picks):
        number = int(Catalogue([scene]).matches(p).sum())
        counts.append((p, number))
        words += [*_plain("and of" if n else "of"), *noun_phrase(p, rng, plural=True), *_plain("is")]
        words.append((NUMBERS[number - 1], "count"))
    return _phrase(words, Form(counts=tuple(counts)))


def _shared(scene: Scene, rng: np.random.Generator, detail: float) -> Partial:
    thing = scene.things[int(rng.integers(len(scene.things)))]
    names = ("shape", "colour", "size", "texture")
    chosen = rng.permutation(4)[: 1 + int(rng.random() < 0.2 + 0.5 * detail)]
    return Partial(**{names[i]: getattr(thing, names[i]) for i in chosen})


def _phrase(words: Words, form: Form) -> Phrase:
    return Phrase(tuple(w for w, _ in words), tuple(t for _, t in words), form)


KINDS: tuple[Callable[[Scene, np.random.Generator, float], Phrase | None], ...] = (
    _relation,
    _position,
    _total,
    _relation,
    _counts,
)
"""The five kinds of caption an image gets, in this order."""


def caption(scene: Scene, kind: int, rng: np.random.Generator, detail: float = 0.3) -> Phrase:
    """A caption that is true of the scene; kind numbers KINDS; a scene without related pairs is told by position."""
    return KINDS[kind % len(KINDS)](scene, rng, detail) or _position(scene, rng, detail)


# --- questions ---


def question(scene: Scene, image: str, number: int, rng: np.random.Generator) -> Question:
    """A question about the scene; existence and relation are answered by yes half of the time."""
    makers = (_ask_count, _ask_colour, _ask_shape, _ask_existence, _ask_relation)
    first = int(rng.integers(len(makers)))
    for maker in (*makers[first:], *makers[:first]):
        asked = maker(scene, rng)
        if asked is not None:
            text, answer, kind, domain = asked
            answers = _ten(answer, domain, rng)
            return Question(image, text, answers, number, kind, _answer_type(domain))
    raise AssertionError("counting is always possible")


Asked = tuple[str, str, str, tuple[str, ...]]
_YES_NO = ("yes", "no")
_FIGURES = tuple(str(n) for n in range(MOST + 1))


def _answer_type(domain: tuple[str, ...]) -> str:
    return {_YES_NO: "yes/no", _FIGURES: "number"}.get(domain, "other")


def _ten(answer: str, domain: tuple[str, ...], rng: np.random.Generator) -> tuple[str, ...]:
    """Ten people's answers, of whom up to two err."""
    wrong = [a for a in domain if a != answer]
    slips = int(rng.choice(3, p=[0.6, 0.25, 0.15]))
    answers = [answer] * (10 - slips) + [wrong[int(rng.integers(len(wrong)))] for _ in range(slips)]
    return tuple(answers[i] for i in rng.permutation(10))


def _text(words: Words) -> str:
    return " ".join(w for w, _ in words)


def _any_partial(rng: np.random.Generator) -> Partial:
    return Partial(int(rng.integers(len(SHAPES))), int(rng.integers(len(COLOURS))))


def _ask_count(scene: Scene, rng: np.random.Generator) -> Asked:
    p = Partial() if rng.random() < 0.3 else _shared(scene, rng, 0.0) if rng.random() < 0.8 else _any_partial(rng)
    n = int(Catalogue([scene]).matches(p).sum())
    return f"how many {_text(noun_phrase(p, rng, plural=True))} are there", str(n), "how many", _FIGURES


def _single(scene: Scene, rng: np.random.Generator, without: str) -> tuple[Thing, Partial] | None:
    """A thing that a partial silent about `without` picks out alone."""
    catalogue = Catalogue([scene])
    for i in rng.permutation(len(scene.things)):
        thing = scene.things[int(i)]
        p = partial(thing, rng, 0.3)
        p = Partial(**{**vars(p), without: None})
        if vars(p) != vars(Partial()) and catalogue.matches(p).sum() == 1:
            return thing, p
    return None


def _ask_colour(scene: Scene, rng: np.random.Generator) -> Asked | None:
    found = _single(scene, rng, "colour")
    if found is None:
        return None
    return f"what colour is the {_text(noun_phrase(found[1], rng))}", COLOURS[found[0].colour], "what colour", COLOURS


def _ask_shape(scene: Scene, rng: np.random.Generator) -> Asked | None:
    found = _single(scene, rng, "shape")
    if found is None:
        return None
    return f"what shape is the {_text(noun_phrase(found[1], rng))}", SHAPES[found[0].shape], "what shape", SHAPES


def _ask_existence(scene: Scene, rng: np.random.Generator) -> Asked | None:
    wanted = bool(rng.random() < 0.5)
    for _ in range(8):
        thing = scene.things[int(rng.integers(len(scene.things)))]
        p = Partial(thing.shape, thing.colour)
        if not wanted:
            p = Partial(p.shape, int(rng.integers(len(COLOURS)))) if rng.random() < 0.5 else _any_partial(rng)
        if is_true(Form((p,)), scene) == wanted:
            return f"is there a {_text(noun_phrase(p, rng))}", _YES_NO[not wanted], "is there", _YES_NO
    return None


def _ask_relation(scene: Scene, rng: np.random.Generator) -> Asked | None:
    found = _related(scene, rng)
    if found is None:
        return None
    a, r, b = found
    pa, pb = Partial(a.shape, a.colour), Partial(b.shape, b.colour)
    catalogue = Catalogue([scene])
    if catalogue.matches(pa).sum() != 1 or catalogue.matches(pb).sum() != 1:
        return None
    wanted = bool(rng.random() < 0.5)
    said = r if wanted else (r + int(rng.integers(1, len(RELATIONS)))) % len(RELATIONS)
    middle = f"{RELATIONS[said]} of" if said < 2 else RELATIONS[said]
    text = f"is the {_text(noun_phrase(pa, rng))} {middle} the {_text(noun_phrase(pb, rng))}"
    return text, _YES_NO[not wanted], "is the", _YES_NO
