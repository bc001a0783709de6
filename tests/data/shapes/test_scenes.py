"""Truth on symbols: by hand on four things, and by law on drawn scenes."""

import numpy as np
import pytest

from vlp_bench.data.shapes.drawing import SIDE, boxes, draw, stamp
from vlp_bench.data.shapes.phrases import KINDS, WORDS, caption, question, vocabulary
from vlp_bench.data.shapes.scenes import (
    ATTRIBUTES,
    Catalogue,
    Form,
    Partial,
    Scene,
    Thing,
    draw_scene,
    is_true,
    relation,
    twin,
)

RED_CIRCLE = Thing(shape=0, colour=0, size=1, texture=0, row=0, col=0)
BLUE_SQUARE = Thing(shape=1, colour=5, size=0, texture=1, row=0, col=2)
RED_SQUARE = Thing(shape=1, colour=0, size=0, texture=0, row=2, col=2)
SCENE = Scene((RED_CIRCLE, BLUE_SQUARE, RED_SQUARE), look=1)


def test_relations_of_three_things():
    assert relation(RED_CIRCLE, BLUE_SQUARE) == 0  # left
    assert relation(BLUE_SQUARE, RED_CIRCLE) == 1  # right
    assert relation(BLUE_SQUARE, RED_SQUARE) == 2  # above
    assert relation(RED_SQUARE, BLUE_SQUARE) == 3  # below
    assert relation(RED_CIRCLE, RED_SQUARE) is None  # a diagonal


@pytest.mark.parametrize(
    ("form", "truth"),
    [
        (Form((Partial(shape=0, colour=0),)), True),
        (Form((Partial(shape=0, colour=5),)), False),
        (Form((Partial(shape=1), Partial(shape=1))), True),  # two squares
        (Form((Partial(shape=0), Partial(shape=0))), False),  # one circle is not two
        (Form((Partial(colour=0), Partial(colour=5)), relation=0), True),
        (Form((Partial(colour=5), Partial(colour=0)), relation=0), False),
        (Form((Partial(shape=0),), total=3), True),
        (Form((Partial(shape=0),), total=2), False),
        (Form(counts=((Partial(colour=0), 2),)), True),
        (Form(counts=((Partial(colour=0), 1),)), False),
        (Form((Partial(shape=1, row=2, col=2),)), True),
    ],
)
def test_truth_by_hand(form, truth):
    assert is_true(form, SCENE) is truth


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_a_twin_differs_in_its_attribute_alone(attribute):
    rng = np.random.default_rng(3)
    found = 0
    for _ in range(200):
        scene = draw_scene(rng)
        other = twin(scene, attribute, rng)
        if other is None:
            continue
        found += 1
        if attribute == "count":
            assert abs(len(other.things) - len(scene.things)) == 1
            continue
        assert len(other.things) == len(scene.things)
        changed = [(a, b) for a, b in zip(scene.things, other.things, strict=True) if a != b]
        assert len(changed) == (2 if attribute == "relation" else 1)
        for a, b in changed:
            names = {n for n in vars(a) if getattr(a, n) != getattr(b, n)}
            assert names <= ({"row", "col"} if attribute == "relation" else {attribute})
    assert found > 50


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_captions_are_true_and_their_words_known(kind):
    rng = np.random.default_rng(kind)
    for _ in range(150):
        scene = draw_scene(rng)
        phrase = caption(scene, kind, rng, detail=float(rng.random()))
        assert is_true(phrase.form, scene), phrase.text
        assert set(phrase.words) <= set(WORDS)
        assert len(phrase.tags) == len(phrase.words)


def test_answers_have_a_majority_and_yes_is_half_of_yes_no():
    rng = np.random.default_rng(0)
    asked = [question(draw_scene(rng), "i", n, rng) for n in range(1200)]
    assert all(len(q.answers) == 10 and max(map(q.answers.count, q.answers)) >= 8 for q in asked)
    assert {q.question_type for q in asked} == {"how many", "what colour", "what shape", "is there", "is the"}
    for kind in ("is there", "is the"):
        yes = [max(set(q.answers), key=q.answers.count) == "yes" for q in asked if q.question_type == kind]
        assert 0.4 < np.mean(yes) < 0.6
    known = vocabulary()
    assert all(w in known for q in asked for text in (q.question, *q.answers) for w in text.split())


def test_a_catalogue_answers_as_single_scenes_do():
    rng = np.random.default_rng(5)
    scenes = [draw_scene(rng) for _ in range(60)]
    catalogue = Catalogue(scenes)
    for scene in scenes[:10]:
        form = caption(scene, 0, rng).form
        assert catalogue.true_of(form).tolist() == [is_true(form, s) for s in scenes]


def test_drawing_is_reproducible_and_things_lie_in_their_boxes():
    rng = np.random.default_rng(2)
    for _ in range(30):
        scene = draw_scene(rng)
        image = draw(scene)
        assert image.shape == (SIDE, SIDE, 3)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, draw(scene))
        empty = draw(Scene((), scene.look)).astype(int)
        changed = np.abs(image.astype(int) - empty).max(2) > 40
        inside = np.zeros_like(changed)
        for x, y, w, h in boxes(scene):
            inside[int(y) : int(np.ceil(y + h)), int(x) : int(np.ceil(x + w))] = True
        assert changed.any()
        assert not (changed & ~inside).any()


def test_large_stamps_are_larger_and_shapes_differ():
    for shape in range(6):
        assert stamp(shape, 1).sum() > 1.8 * stamp(shape, 0).sum()
    areas = [stamp(shape, 1) for shape in range(6)]
    assert min(np.abs(a - b).sum() for i, a in enumerate(areas) for b in areas[:i]) > 15
