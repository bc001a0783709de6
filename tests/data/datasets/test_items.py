"""Record -> item -> batch."""

import pytest
import torch

from vlp_bench.data.items import CaptionDataset, Collate, RegionDataset, patch_mask
from vlp_bench.data.shapes.curriculum import WHAT, WHERE, Curriculum, word_ids
from vlp_bench.data.shapes.phrases import vocabulary
from vlp_bench.data.shapes.probes import batches, cases
from vlp_bench.data.shapes.world import World
from vlp_bench.data.text import IGNORED, Masker, make_tokenizer
from vlp_bench.data.transforms.images import Eval

WORLD = World(0)
LOOK = Eval(48)
TOKENIZER = make_tokenizer(vocabulary())


def test_one_item_per_caption_or_one_per_image():
    records = WORLD.images("itr_train", 6)
    every = CaptionDataset(records, WORLD, LOOK)
    assert len(every) == 30
    assert [every[i].captions[0] for i in range(5)] == list(records[0].captions)
    assert every[0].idx == every[4].idx != every[5].idx
    drawn = CaptionDataset(records, WORLD, LOOK, each="image")
    assert len(drawn) == 6
    assert drawn[2].captions[0] in records[2].captions
    assert len({drawn[(epoch, 2)].captions for epoch in range(20)}) > 1
    with pytest.raises(ValueError, match="each must be"):
        CaptionDataset(records, WORLD, LOOK, each="word")


def test_a_batch_has_the_promised_shapes():
    data = CaptionDataset(WORLD.images("itr_train", 3), WORLD, LOOK)
    batch = Collate(TOKENIZER, masker=Masker(TOKENIZER, most=4))([data[i] for i in range(8)])
    assert batch.images.shape == (8, 3, 48, 48)
    assert batch.text_ids.shape == batch.text_atts.shape == batch.text_ids_masked.shape
    assert batch.masked_pos.shape == batch.masked_ids.shape == (8, 4)
    assert batch.idx.tolist().count(batch.idx[0].item()) == 5
    assert torch.equal(batch.text_atts, (batch.text_ids != 0).long())


def test_regions_carry_their_patches_and_boxes():
    data = RegionDataset(WORLD.region_images("calibration_region", 5), WORLD, LOOK, regions=2)
    batch = Collate(TOKENIZER, side=6)([data[i] for i in range(5)])
    b = len(batch.text_ids)
    assert batch.images.shape[0] == 5 <= b <= 10
    assert batch.idx is None
    assert batch.idx_to_group_img.tolist() == sorted(batch.idx_to_group_img.tolist())
    assert batch.image_atts.shape == (b, 37)
    assert (batch.image_atts[:, 0] == 1).all()
    cx, cy, w, h = batch.target_bbox.T
    assert (cx - w / 2 >= -1e-6).all()
    assert (cy + h / 2 <= 1 + 1e-6).all()
    with pytest.raises(ValueError, match="regions must be"):
        RegionDataset([], WORLD, LOOK, regions=0)


def test_patches_a_box_touches():
    assert patch_mask((0.0, 0.0, 0.5, 0.5), 2).tolist() == [1, 1, 0, 0, 0]
    assert patch_mask((0.4, 0.6, 0.2, 0.1), 2).tolist() == [1, 0, 0, 1, 1]
    assert patch_mask((1.0, 1.0, 0.0, 0.0), 2).tolist() == [1, 0, 0, 0, 1]  # never no patch at all


def test_a_batch_of_the_curriculum_depends_on_its_number_alone():
    first, again = Curriculum(100, 12, seed=1)[60], Curriculum(100, 12, seed=1)[60]
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.text_ids_masked, again.text_ids_masked)
    assert not torch.equal(first.images, Curriculum(100, 12, seed=2)[60].images)


def test_the_curriculum_names_single_things_before_it_shows_scenes():
    course = Curriculum(200, 12, seed=0, region_every=4, named=0.05)
    assert all(course[i].is_region for i in range(10))
    assert [course[i].is_region for i in range(12, 20)] == [False, False, False, True] * 2
    many = {vocabulary()[w] for w in ("three", "four")}
    assert not any(set(course[i].text_ids.flatten().tolist()) & many for i in range(12, 50, 4))
    assert any(set(course[i].text_ids.flatten().tolist()) & many for i in range(152, 200, 4))


def test_later_every_second_batch_hides_where_things_are_and_nothing_else():
    course = Curriculum(100, 12, seed=0, named=0.0, region_every=10, where=0.6)
    where = word_ids(WHERE)
    for step, only in ((51, False), (62, False), (61, True), (63, True)):
        hidden = course[step].masked_ids
        assert (set(hidden[hidden != IGNORED].tolist()) <= where) is only, step


def test_probes_hide_one_attribute_word():
    told = WORLD.told_apart("itr_val", 30)
    for attribute, listed in cases(told, 25).items():
        assert 10 <= len(listed) <= 25, attribute
        for batch in batches(listed, TOKENIZER, size=10):
            assert (batch.text_ids_masked != batch.text_ids).sum(1).eq(1).all()
            assert (batch.masked_ids != IGNORED).all()
            assert set(batch.masked_ids.flatten().tolist()) <= word_ids(WHAT + WHERE) | {
                vocabulary()[w] for w in ("circles", "squares", "triangles", "diamonds", "crosses", "rings")
            }
