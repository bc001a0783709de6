"""Crops around boxes: by hand where nothing is left to chance, by law over many draws."""

import numpy as np
import pytest
import torch
from PIL import Image

from vlp_bench.data.items import RegionDataset
from vlp_bench.data.records import RegionCaption, RegionImage
from vlp_bench.data.transforms.boxes import BoxCrop, around, says_side
from vlp_bench.data.transforms.images import MEAN, STD, to_tensor

WIDTH, HEIGHT = 40, 30
BOX = (10.0, 6.0, 8.0, 5.0)


def marked(box: tuple[float, float, float, float] = BOX, width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Black, but for a white box."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    x, y, w, h = map(int, box)
    pixels[y : y + h, x : x + w] = 255
    return Image.fromarray(pixels)


def record(*captions: str, size: tuple[int, int] = (WIDTH, HEIGHT)) -> RegionImage:
    return RegionImage("a.jpg", tuple(RegionCaption(c, BOX) for c in captions), size)


def crop(**changes) -> BoxCrop:
    return BoxCrop(64, n=0, **changes)


def brightness(image: torch.Tensor) -> np.ndarray:
    """(64, 64) in 0..1."""
    return (image[0] * STD[0] + MEAN[0]).numpy()


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_the_box_stays_on_what_it_shows(flip: float) -> None:
    for seed in range(40):
        image, (region,) = crop(flip=flip).place(marked(), record("a thing"), 1, np.random.default_rng(seed))
        x, y, w, h = region.box
        inside = np.zeros((64, 64), dtype=bool)
        inside[round(y + h * 0.2) : round(y + h * 0.8), round(x + w * 0.2) : round(x + w * 0.8)] = True
        outside = np.ones((64, 64), dtype=bool)
        outside[max(0, round(y) - 6) : round(y + h) + 6, max(0, round(x) - 6) : round(x + w) + 6] = False
        shown = brightness(image)
        assert shown[inside].min() > 0.9
        assert not outside.any() or shown[outside].max() < 0.1


def test_a_crop_holds_its_box_and_stays_inside() -> None:
    seen = set()
    for seed in range(300):
        left, top, right, lower = around(BOX, (WIDTH, HEIGHT), np.random.default_rng(seed))
        assert 0 <= left <= 10
        assert 0 <= top <= 6
        assert 18 <= right <= WIDTH
        assert 11 <= lower <= HEIGHT
        seen.add((left, right))
    assert len(seen) > 100


def test_a_box_of_the_whole_image_is_the_whole_image() -> None:
    whole = RegionImage("a.jpg", (RegionCaption("all", (0.0, 0.0, 40.0, 30.0)),), (40, 30))
    image, (region,) = crop(flip=0.0).place(marked(), whole, 1, np.random.default_rng(0))
    assert region.box == (0.0, 0.0, 64.0, 64.0)
    assert image.shape == (3, 64, 64)


def test_captions_that_name_a_side_are_not_mirrored() -> None:
    def boxes(caption: str, aware: bool) -> list[float]:
        draws = [np.random.default_rng(seed) for seed in range(30)]
        view = crop(flip=1.0, aware=aware)
        return [view.place(marked(), record(caption), 1, rng)[1][0].box[0] for rng in draws]

    still, mirrored = boxes("the left one", True), boxes("the left one", False)
    assert boxes("a thing", True) == mirrored
    assert still != mirrored
    assert mirrored == pytest.approx([64 - x - w for x, w in zip(still, widths())])


def widths() -> list[float]:
    return [crop(flip=0.0).place(marked(), record("a"), 1, np.random.default_rng(s))[1][0].box[2] for s in range(30)]


@pytest.mark.parametrize("text", ["left of it", "The RIGHT hand", "rightmost", "on the lefthand side"])
def test_sides_are_heard(text: str) -> None:
    assert says_side("a dog", text)


@pytest.mark.parametrize("text", ["bright red", "a cleft rock", "upright"])
def test_words_that_hold_a_side_by_chance_are_not_sides(text: str) -> None:
    assert not says_side(text)


def test_regions_cut_to_half_are_left_out() -> None:
    far = RegionCaption("far", (30.0, 20.0, 10.0, 10.0))
    two = RegionImage("a.jpg", (RegionCaption("near", (0.0, 0.0, 4.0, 4.0)), far), (40, 30))
    for seed in range(100):
        _, shown = crop(flip=0.0).place(marked(), two, 5, np.random.default_rng(seed))
        assert shown
        for region in shown:
            x, y, w, h = region.box
            assert min(x, y) >= 0
            assert max(x + w, y + h) <= 64 + 1e-6
            assert min(w, h) > 0
    counts = [len(crop().place(marked(), two, 5, np.random.default_rng(s))[1]) for s in range(100)]
    assert set(counts) == {1, 2}
    assert max(len(crop().place(marked(), two, 1, np.random.default_rng(s))[1]) for s in range(30)) == 1


def test_boxes_measured_in_a_larger_image_are_scaled() -> None:
    large = RegionImage("a.jpg", (RegionCaption("a", (20.0, 12.0, 16.0, 10.0)),), (80, 60))
    a = crop().place(marked(), large, 1, np.random.default_rng(3))
    b = crop().place(marked(), record("a"), 1, np.random.default_rng(3))
    assert torch.equal(a[0], b[0])
    assert a[1] == b[1]


def test_a_region_data_set_takes_it() -> None:
    class Source:
        def open(self, key: str) -> Image.Image:
            return marked()

    data = RegionDataset([record("a thing", "a box")], Source(), BoxCrop(64), regions=2, seed=5)
    item, again, other = data[(2, 0)], data[(2, 0)], data[(3, 0)]
    assert torch.equal(item.image, again.image)
    assert item.boxes == again.boxes
    assert item.boxes != other.boxes
    assert all(0 <= v <= 1 for box in item.boxes for v in box)
    assert sorted(item.captions) == ["a box", "a thing"]


@pytest.mark.parametrize(
    "given, message",
    [({"least": 2}, "least is a share"), ({"flip": -1}, "flip is a share"), ({"compat": "x"}, "null or official")],
)
def test_values_out_of_range_are_refused(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BoxCrop(8, **given)


def test_normalising_by_table_equals_arithmetic() -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    expected = (torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 - torch.tensor(MEAN)[:, None, None]) / (
        torch.tensor(STD)[:, None, None]
    )
    assert torch.equal(to_tensor(Image.fromarray(pixels)), expected)
