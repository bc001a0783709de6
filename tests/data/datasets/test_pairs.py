"""Statements about two pictures: true by their own words, said of a true and a false pair; batches; swaps."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tasks.worlds import SIZES, shared
from vlp_bench.data.datasets.pairs import PairData, PairDataset, ShapesPairs, other_way_round
from vlp_bench.data.datasets.sources import Split
from vlp_bench.data.minicopy.writing import write
from vlp_bench.data.readers.annotations import read_pairs
from vlp_bench.data.readers.genome import read_nlvr2
from vlp_bench.data.records import ImagePair
from vlp_bench.data.shapes.phrases import NUMBERS, vocabulary
from vlp_bench.data.shapes.scenes import Catalogue, is_true
from vlp_bench.data.shapes.statements import LONGEST, statements
from vlp_bench.data.shapes.world import SPLITS, World, parse
from vlp_bench.data.transforms.images import Eval
from vlp_bench.metrics.truth import _partial
from vlp_bench.metrics.truth import parse as form_of

RECORDS = statements(World(0), "vqa_train", 120)
COUNTED = re.compile("the number of (.+) in all is (.+)")


def judged(record: ImagePair) -> bool:
    """Whether the sentence, read by the grammar of captions, is true of the two scenes."""
    scenes = [parse(image) for image in record.images]
    if found := COUNTED.fullmatch(record.sentence):
        return int(Catalogue(scenes).matches(_partial(found[1])).sum()) == NUMBERS.index(found[2]) + 1
    claims = re.split(" and (?=in the (?:left|right) picture )", record.sentence)
    assert claims
    return all(_claimed(claim, scenes) for claim in claims)


def _claimed(claim: str, scenes: list) -> bool:
    found = re.fullmatch("in the (left|right) picture (.+)", claim)
    assert found, claim
    form = form_of(found[2])
    assert form is not None, found[2]
    return is_true(form, scenes[found[1] == "right"])


def test_labels_are_what_the_words_say() -> None:
    assert [judged(record) for record in RECORDS] == [record.label for record in RECORDS]
    kinds = Counter("count" if COUNTED.fullmatch(r.sentence) else r.sentence.count(" picture ") for r in RECORDS)
    assert set(kinds) == {"count", 1, 2}


def test_every_sentence_is_true_once_and_false_once() -> None:
    for true, false in zip(RECORDS[::2], RECORDS[1::2], strict=True):
        assert true.sentence == false.sentence
        assert (true.label, false.label) == (True, False)
        assert true.images != false.images


def test_scenes_are_of_the_split_and_words_of_the_world() -> None:
    known = vocabulary()
    for record in RECORDS:
        assert all(parse(image).bucket() in SPLITS["vqa_train"] for image in record.images)
        assert all(word in known for word in record.sentence.split())
        assert len(record.sentence.split()) <= LONGEST
    assert statements(World(0), "vqa_train", 7) == RECORDS[:7]
    assert statements(World(1), "vqa_train", 4) != RECORDS[:4]


def test_images_change_places_with_their_names() -> None:
    assert other_way_round("the left dog is right of the rightmost cat") == "the right dog is left of the leftmost cat"
    assert other_way_round("Left, a copyright and a bright cleft") == "right, a copyright and a bright cleft"
    source = ShapesPairs(**SIZES).pairs("train")
    plain, swapped = (PairDataset(source.records, source.images, Eval(48), swap=swap) for swap in (0.0, 1.0))
    for i in range(4):
        there, other = plain[i], swapped[i]
        assert torch.equal(there.images[0], other.images[1])
        assert torch.equal(there.images[1], other.images[0])
        assert other.sentence == other_way_round(there.sentence)
        assert other.label == there.label


def test_batches_hold_pairs_one_after_the_other() -> None:
    data = PairData(ShapesPairs(**SIZES), **shared(max_words=46, max_tokens=48))
    batch = next(iter(data.val_dataloader()))
    records = data.source.pairs("val").records
    assert batch.images.shape == (8, 3, 48, 48)
    expected = Eval(48)(World(0).open(records[1].images[1]), np.random.default_rng(0))
    assert torch.equal(batch.images[3], expected)
    assert batch.labels.tolist() == [1, 0, 1, 0]
    assert batch.idx.tolist() == [0, 0, 1, 1]
    assert len(batch.text_ids) == 4
    assert data.fingerprint() != PairData(ShapesPairs(**SIZES | {"val": 6}), **shared()).fingerprint()


def test_what_cannot_be_used_is_refused() -> None:
    source = ShapesPairs(**SIZES).pairs("test")
    hidden = [replace(record, label=None) for record in source.records]
    with pytest.raises(ValueError, match="7 of 7 pairs have no label"):
        PairDataset(hidden, source.images, Eval(48))
    data = PairData(ShapesPairs(**SIZES), **shared())
    data.inspect(None)
    read = data.source.pairs
    data.source.pairs = lambda split: Split(hidden, source.images) if split == "test" else read(split)
    with pytest.raises(ValueError, match=r"^test: 7 of 7 pairs have no label, the first is .* of .*: give"):
        data.inspect(None)
    with pytest.raises(ValueError, match=r"data\.swap is a share"):
        PairData(ShapesPairs(**SIZES), swap=2.0, **shared())


def test_the_papers_settings_read_both_formats(tmp_path: Path) -> None:
    from tests.data.test_paper_data import built

    root = write(tmp_path / "data", images=12).root
    data = built("nlvr2_paper", root)
    batch = next(iter(data.train_dataloader()))
    assert batch.images.shape == (4, 3, 384, 384)
    assert data.swap == 0.5
    files = {
        split: f"{root}/nlvr2/{name}.json" for split, name in (("train", "train"), ("val", "dev"), ("test", "test1"))
    }
    words = ["data.source.format=nlvr2", *(f"data.source.{split}={file}" for split, file in files.items())]
    official = built("nlvr2_paper", root, *words)
    for split in files:
        told, other = (d.source.pairs(split).records for d in (data, official))
        assert [(r.images, r.sentence, r.label) for r in told] == [(r.images, r.sentence, r.label) for r in other]


def test_pairs_of_one_sentence_are_known_in_both_formats(tmp_path: Path) -> None:
    """A set of images has two sentences; its pairs, and so what one sentence is said of, are numbered within it."""
    said = [("dev-7-0-0", "a cat"), ("dev-7-1-0", "a cat"), ("dev-7-0-1", "a dog"), ("dev-8-0-0", "a cat")]
    official = [{"identifier": i, "sentence": s, "label": "True"} for i, s in said]
    stems = [i.rpartition("-")[0] for i, _ in said]
    images = [[f"dev/{stem}-img{side}.png" for side in (0, 1)] for stem in stems]
    released = [{"sentence": s, "label": "True", "images": two} for (_, s), two in zip(said, images, strict=True)]
    (tmp_path / "dev.json").write_text("\n".join(map(json.dumps, official)))
    (tmp_path / "nlvr_dev.json").write_text(json.dumps(released))
    for records in (read_nlvr2(tmp_path / "dev.json"), read_pairs(tmp_path / "nlvr_dev.json")):
        assert PairDataset(records, World(0), Eval(48)).said == [0, 0, 1, 2]
