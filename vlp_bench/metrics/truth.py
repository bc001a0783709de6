"""Whether a caption of the embedded world is true: parsed back to its logical form, checked clause by clause.

The grammar is the inverse of `data.phrases`. A caption that is no sentence of it is not true.
"""

import re
from collections.abc import Mapping, Sequence

from vlp_bench.data.records import CaptionedImage
from vlp_bench.data.shapes.phrases import COLUMNS, NUMBERS, ROWS
from vlp_bench.data.shapes.scenes import COLOURS, RELATIONS, SHAPES, SIZES, TEXTURES, Form, Partial, is_true
from vlp_bench.data.shapes.world import is_address
from vlp_bench.data.shapes.world import parse as scene_of
from vlp_bench.metrics.caption_scores import Scores

_NOUNS = (*SHAPES, "shape", "thing")
_PLURALS = {noun + ("es" if noun.endswith("s") else "s"): noun for noun in _NOUNS}


def _one_of(words: Sequence[str]) -> str:
    return "(?:" + "|".join(words) + ")"


_ATTRIBUTES = "".join(f"(?:{_one_of(words)} )?" for words in (SIZES, TEXTURES, COLOURS))
_NOUN_PHRASE = f"({_ATTRIBUTES}{_one_of(_NOUNS)})"
_NOUN_PHRASES = f"({_ATTRIBUTES}{_one_of(list(_PLURALS))})"
_BEFORE = "(?:there is |we see |the picture shows )?"
_PLACE = f"at the ({_one_of(ROWS)}) ({_one_of(COLUMNS)})"
_NUMBER = f"({_one_of(NUMBERS)})"
_BESIDE, _OVER = f"({_one_of(RELATIONS[:2])})", f"({_one_of(RELATIONS[2:])})"

_RELATED = tuple(
    re.compile(pattern)
    for pattern in (
        f"{_BEFORE}a {_NOUN_PHRASE} {_BESIDE} of a {_NOUN_PHRASE}",
        f"{_BEFORE}a {_NOUN_PHRASE} {_OVER} a {_NOUN_PHRASE}",
        f"the {_NOUN_PHRASE} is to the {_BESIDE} of the {_NOUN_PHRASE}",
        f"the {_NOUN_PHRASE} is {_OVER} the {_NOUN_PHRASE}",
    )
)
_WITH = tuple(
    re.compile(pattern)
    for pattern in (
        f"{_BEFORE}a {_NOUN_PHRASE} with a {_NOUN_PHRASE} on its {_BESIDE}",
        f"{_BEFORE}a {_NOUN_PHRASE} with a {_NOUN_PHRASE} {_OVER} it",
    )
)
_PLACED = (re.compile(f"{_BEFORE}a {_NOUN_PHRASE} {_PLACE}"), re.compile(f"{_PLACE} {_BEFORE}a {_NOUN_PHRASE}"))
_COUNTED = re.compile(f"the number of {_NOUN_PHRASES} is {_NUMBER}(?: and of {_NOUN_PHRASES} is {_NUMBER})?")
_TOTAL = (re.compile(f"{_NUMBER} in all and (.+)"), re.compile(f"(.+) and {_NUMBER} in all"))


def _index(names: Sequence[str], words: Sequence[str]) -> int | None:
    return next((i for i, name in enumerate(names) if name in words), None)


def _partial(phrase: str, place: tuple[str, str] | None = None) -> Partial:
    """What a noun phrase, singular or plural, says of a thing, and where it is."""
    words = [_PLURALS.get(word, word) for word in phrase.split()]
    shape, colour, size, texture = (_index(names, words) for names in (SHAPES, COLOURS, SIZES, TEXTURES))
    row, col = (None, None) if place is None else (ROWS.index(place[0]), COLUMNS.index(place[1]))
    return Partial(shape, colour, size, texture, row, col)


def _related(text: str) -> Form | None:
    for pattern in _RELATED:
        if match := pattern.fullmatch(text):
            return Form((_partial(match[1]), _partial(match[3])), RELATIONS.index(match[2]))
    for pattern in _WITH:
        if match := pattern.fullmatch(text):
            return Form((_partial(match[2]), _partial(match[1])), RELATIONS.index(match[3]))
    return None


def _placed(text: str) -> Form | None:
    if match := _PLACED[0].fullmatch(text):
        return Form((_partial(match[1], (match[2], match[3])),))
    if match := _PLACED[1].fullmatch(text):
        return Form((_partial(match[3], (match[1], match[2])),))
    return None


def _counted(text: str) -> Form | None:
    match = _COUNTED.fullmatch(text)
    if match is None:
        return None
    pairs = [(match[1], match[2]), (match[3], match[4])]
    return Form(counts=tuple((_partial(what), NUMBERS.index(n) + 1) for what, n in pairs if what is not None))


def parse(caption: str) -> Form | None:
    """The logical form of a caption; None if it is no sentence of the embedded world."""
    for pattern, number, body in ((_TOTAL[0], 1, 2), (_TOTAL[1], 2, 1)):
        if match := pattern.fullmatch(caption):
            inner = _related(match[body]) or _placed(match[body])
            return None if inner is None else Form(inner.things, inner.relation, NUMBERS.index(match[number]) + 1)
    return _related(caption) or _placed(caption) or _counted(caption)


class Truth:
    """Share of captions, in percent, that are sentences (`grammatical`) and true in every clause (`truth`).

    Only the embedded world can check that: of other images nothing is computed, and it is said.
    """

    NAMES = ("truth", "grammatical")

    def prepare(self) -> None:
        """Nothing is started ahead of time."""

    def names(self, images: Sequence[CaptionedImage]) -> Sequence[str]:
        """Both, if all images are scenes of the embedded world; else none."""
        return self.NAMES if all(is_address(image.image) for image in images) else ()

    def __call__(self, captions: Mapping[int, str], images: Sequence[CaptionedImage]) -> Scores:
        """Captions by place in `images`, whose keys spell their scenes out."""
        if not self.names(images):
            return Scores({}, {}, {", ".join(self.NAMES): "not computed: the images are not the embedded world's"})
        forms = [parse(captions[n]) for n in range(len(images))]
        pairs = zip(forms, images, strict=True)
        true = [form is not None and is_true(form, scene_of(image.image)) for form, image in pairs]
        sentences = [form is not None for form in forms]
        values = {"truth": 100 * sum(true) / len(true), "grammatical": 100 * sum(sentences) / len(sentences)}
        return Scores(values, {"truth": [100.0 * t for t in true]})
