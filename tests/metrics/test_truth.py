"""Truth of captions: the parser is the inverse of what the world says, and the judgement is the world's own."""

import numpy as np
import pytest

from vlp_bench.data.records import CaptionedImage
from vlp_bench.data.shapes.phrases import KINDS, caption
from vlp_bench.data.shapes.scenes import Form, Partial, Scene, Thing, draw_scene, twin
from vlp_bench.data.shapes.world import key
from vlp_bench.metrics.truth import Truth, parse


def test_whatever_the_world_says_is_parsed_back():
    rng = np.random.default_rng(0)
    for _ in range(150):
        scene = draw_scene(rng)
        for kind in range(len(KINDS)):
            phrase = caption(scene, kind, rng, detail=float(rng.random()))
            assert parse(phrase.text) == phrase.form, phrase.text


RED_CIRCLE, BLUE_RING = Partial(shape=0, colour=0), Partial(shape=5, colour=5)


@pytest.mark.parametrize(
    "text, form",
    [
        ("a red circle left of a blue ring", Form((RED_CIRCLE, BLUE_RING), 0)),
        ("there is a blue ring with a red circle above it", Form((RED_CIRCLE, BLUE_RING), 2)),
        ("the red circle is to the right of the blue ring", Form((RED_CIRCLE, BLUE_RING), 1)),
        ("three in all and at the top left a red circle", Form((Partial(0, 0, row=0, col=0),), None, 3)),
        ("the number of rings is two and of red things is one",
         Form(counts=((Partial(shape=5), 2), (Partial(colour=0), 1)))),
    ],
)  # fmt: skip
def test_sentences_by_hand(text, form):
    assert parse(text) == form


@pytest.mark.parametrize(
    "text",
    ["", "one in all", "a red", "red circle left of a blue ring", "a circle red above a ring", "a dog at the top left",
     "a red circle above a ring and", "the number of ring is one"],
)  # fmt: skip
def test_what_is_no_sentence_has_no_form(text):
    assert parse(text) is None


def image(*things):
    address = key(Scene(tuple(things), 1))
    return CaptionedImage(address, ("a ring at the top left",), address)


def test_a_caption_counts_only_if_every_clause_is_true():
    shown = image(Thing(0, 0, 0, 0, 0, 0), Thing(5, 5, 0, 0, 0, 2))
    told = {
        0: "a red circle left of a blue ring and two in all",
        1: "a red circle left of a blue ring and three in all",
        2: "a red circle right of a blue ring",
        3: "circle circle circle",
    }
    scores = Truth()(told, [shown] * 4)
    assert scores.values == {"truth": 25.0, "grammatical": 75.0}
    assert scores.examples["truth"] == [100.0, 0.0, 0.0, 0.0]


def test_twins_are_told_apart():
    rng = np.random.default_rng(1)
    scene = draw_scene(rng, 2, 2)
    other = twin(scene, "colour", rng)
    said = " ".join(caption(scene, 1, rng, detail=5.0).text.split())
    changed = next(i for i, (a, b) in enumerate(zip(scene.things, other.things, strict=True)) if a != b)
    spoken_of = parse(said).things[0]
    expected = (spoken_of.row, spoken_of.col) != (scene.things[changed].row, scene.things[changed].col)
    assert Truth()({0: said, 1: said}, [image(*scene.things), image(*other.things)]).examples["truth"] == [
        100.0,
        100.0 * expected,
    ]
