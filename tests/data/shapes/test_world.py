"""The embedded world's splits and galleries."""

import pytest

from vlp_bench.data.shapes.scenes import ATTRIBUTES, Catalogue
from vlp_bench.data.shapes.world import SPLITS, World, key, parse


def test_a_key_spells_its_scene_out():
    world = World(0)
    scene, _ = world.captioned("pretrain", 5)
    assert parse(key(scene)) == scene
    assert world.open(key(scene)).size == (48, 48)


@pytest.mark.parametrize(
    "bad", ["", "shapes", "shapes-1", "shapes-x-111111", "shapes-1-11", "coco/1.jpg", "shapes-1" + "-000000" * 5]
)
def test_a_foreign_key_is_refused(bad):
    with pytest.raises(ValueError, match="address of the embedded world"):
        parse(bad)


def test_splits_share_no_content():
    assert sum(len(r) for r in SPLITS.values()) == len({b for r in SPLITS.values() for b in r})
    world = World(0)
    for split, own in SPLITS.items():
        for i in range(20):
            assert world.captioned(split, i)[0].bucket() in own
    assert parse(world.regions("calibration_region", 3).image).bucket() in SPLITS["calibration_region"]
    assert parse(world.questions("vqa_val", 2)[1].image).bucket() in SPLITS["vqa_val"]


def test_the_world_depends_on_its_seed_alone():
    assert World(3).images("itr_train", 4) == World(3).images("itr_train", 4)
    assert World(3).images("itr_train", 4) != World(4).images("itr_train", 4)
    with pytest.raises(ValueError, match=r"no split 'train'.*itr_train"):
        World(0).images("train", 1)


def test_no_caption_of_a_gallery_is_true_of_two_images():
    told = World(1).told_apart("itr_val", 120, twins=0.3)
    assert len(told) == 120
    catalogue = Catalogue([scene for scene, _ in told])
    for n, (_, phrases) in enumerate(told):
        assert len({p.text for p in phrases}) == 5
        for phrase in phrases:
            assert catalogue.true_of(phrase.form).nonzero()[0].tolist() == [n]


def test_galleries_hold_twins_of_every_attribute():
    world = World(0)
    scenes = [s for s, _ in world.told_apart("itr_val", 100, twins=0.4)]
    kept = dict.fromkeys(ATTRIBUTES, 0)
    for i in range(20):
        attribute = ATTRIBUTES[i % len(ATTRIBUTES)]
        kept[attribute] += all(s in scenes for s in world.pair("itr_val", i, attribute))
    assert min(kept.values()) >= 1, kept  # some are dropped because words cannot tell them apart
    assert sum(kept.values()) >= 10


def test_contrast_captions_tell_twins_apart():
    world = World(0)
    apart = 0
    for n in range(60):
        (_, said), (other, _) = world.contrast("pretrain", n, ATTRIBUTES[n % len(ATTRIBUTES)])
        apart += not Catalogue([other]).true_of(said.form)[0]
    assert apart >= 54


def test_regions_are_captioned_boxes_inside_the_image():
    for record in World(0).region_images("calibration_region", 30):
        assert len(record.regions) >= 1
        for region in record.regions:
            x, y, w, h = region.box
            assert 0 <= x < x + w <= 48
            assert 0 <= y < y + h <= 48
