"""Broken images are replaced by a rule of place alone, counted, and end the run beyond a limit; caches and orders."""

import logging
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DistributedSampler

from vlp_bench.data.cache import cached
from vlp_bench.data.items import CaptionDataset, Collate
from vlp_bench.data.loading import CalibrationBatches, EpochSampler, ResumableLoader, calibration_order
from vlp_bench.data.records import CaptionedImage
from vlp_bench.data.shapes.phrases import vocabulary
from vlp_bench.data.text import make_tokenizer
from vlp_bench.data.transforms.decoding import BrokenImage, Folder
from vlp_bench.data.transforms.images import Augment
from vlp_bench.data.transforms.replace_broken import replace_broken

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
COLLATE = Collate(make_tokenizer(vocabulary()))
N = 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(N):
        Image.new("RGB", (40, 30), (40 * i, 10, 200)).save(tmp_path / f"{i}.png")
    return tmp_path


def data(folder: Path) -> CaptionDataset:
    records = [CaptionedImage(f"{i}.png", (f"a circle {i}", f"a square {i}"), str(i)) for i in range(N)]
    return CaptionDataset(records, Folder(folder), Augment(16), each="image", seed=3)


def test_the_next_place_stands_in(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "2.png").write_bytes(b"no image")
    (folder / "5.png").unlink()
    whole, there = replace_broken(data(folder), 2), data(folder)
    with caplog.at_level(logging.WARNING):
        for epoch in (0, 1):
            for place, stands_in in {0: 0, 1: 1, 2: 3, 3: 3, 4: 4, 5: 0}.items():
                found, expected = whole[(epoch, place)], there[(epoch, stands_in)]
                assert torch.equal(found.image, expected.image)
                assert found.captions == expected.captions
    assert whole.broken == 2
    assert len(caplog.messages) == 2
    assert "2.png" in caplog.messages[0]
    assert "5.png" in caplog.messages[1]


def test_one_more_than_allowed_ends_the_run(folder: Path) -> None:
    for name in ("1.png", "3.png"):
        (folder / name).unlink()
    whole = replace_broken(data(folder), 1)
    whole[1]
    whole[1]
    with pytest.raises(ValueError, match=r"3\.png.*data\.max_broken allows 1, and this is number 2"):
        whole[3]


def test_without_an_allowance_the_first_broken_image_ends_it(folder: Path) -> None:
    (folder / "1.png").unlink()
    with pytest.raises(BrokenImage, match=r"1\.png"):
        replace_broken(data(folder), 0)[1]
    with pytest.raises(ValueError, match="max_broken must be 0 or more, got -1"):
        replace_broken(data(folder), -1)


def test_an_empty_folder_is_not_gone_through_for_ever(folder: Path) -> None:
    for file in folder.glob("*.png"):
        file.unlink()
    with pytest.raises(ValueError, match="no image of the data set can be read"):
        replace_broken(data(folder), 100)[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_count_together_and_see_the_same(folder: Path, workers: int) -> None:
    for name in ("1.png", "4.png"):
        (folder / name).unlink()
    whole = replace_broken(data(folder), 2)
    loader = ResumableLoader(
        whole, sampler=EpochSampler(whole, seed=1), batch_size=2, collate_fn=COLLATE, num_workers=workers
    )
    shown = torch.cat([batch.images for batch in loader])
    order = [place for _, place in EpochSampler(whole, seed=1)]
    stands_in = {0: 0, 1: 2, 2: 2, 3: 3, 4: 5, 5: 5}
    assert torch.equal(shown, torch.stack([data(folder)[(0, stands_in[place])].image for place in order]))
    assert whole.broken == 2


# --- calibration ---


def batches(folder: Path, **changes) -> CalibrationBatches:
    arguments = {"num_images": 5, "batch_size": 2, "seed": 0, "num_workers": 0} | changes
    return CalibrationBatches([(data(folder), COLLATE)], **arguments)


def test_images_are_counted_exactly(folder: Path) -> None:
    found = [len(part.images) for (part,) in batches(folder)]
    assert found == [2, 2, 1]
    assert len(batches(folder)) == 3


def test_the_official_order_is_torchs_permutation_of_seed_0() -> None:
    released = list(DistributedSampler(range(50), num_replicas=1, rank=0, shuffle=True, seed=0))
    assert calibration_order(50, 0, 0, "official") == released == calibration_order(50, 0, 1, "official")
    assert calibration_order(50, 0, 0) != calibration_order(50, 0, 1)
    assert calibration_order(50, 0, 0) != calibration_order(50, 1, 0)
    assert sorted(calibration_order(50, 7, 1)) == list(range(50))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cache_gives_the_same_batches_without_the_images(folder: Path, workers: int) -> None:
    plain = [part for (part,) in batches(folder)]
    kept = batches(folder, cache=folder / "cache", num_workers=workers)
    first = [part for (part,) in kept]
    for file in folder.glob("*.png"):
        file.unlink()
    for again in (first, [part for (part,) in kept], [part for (part,) in batches(folder, cache=folder / "cache")]):
        for a, b in zip(plain, again, strict=True):
            assert torch.equal(a.images, b.images)
            assert torch.equal(a.text_ids, b.text_ids)
            assert torch.equal(a.idx, b.idx)
    assert [p.name for p in (folder / "cache").iterdir()] == ["0"]


def test_a_cut_cache_is_refused(folder: Path) -> None:
    cached(data(folder), [0, 1], folder / "cache")
    pixels = folder / "cache/images.u8"
    pixels.write_bytes(pixels.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is not whole; delete it"):
        cached(data(folder), [0, 1], folder / "cache")
    (folder / "cache/items.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        cached(data(folder), [0, 1], folder / "cache")


def test_a_transform_that_is_not_8_bit_is_refused(folder: Path) -> None:
    odd = data(folder)
    odd.transform = lambda image, rng: torch.full((3, 4, 4), 0.1234)
    with pytest.raises(ValueError, match="not 8-bit values"):
        cached(odd, [0], folder / "cache")
    assert not (folder / "cache").exists()
