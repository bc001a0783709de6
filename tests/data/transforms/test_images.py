"""Decoding refuses what it cannot trust; transforms by hand, by law and from one generator."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vlp_bench.data.transforms.decoding import Folder, decode, inside
from vlp_bench.data.transforms.images import MEAN, STD, Augment, Eval, Light, crop_box, to_tensor


def generator(*place: int) -> np.random.Generator:
    return np.random.default_rng(place)


def noise(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def huge_png(path: Path, side: int) -> None:
    """A few bytes that claim side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    noise().convert(mode).save(tmp_path / "a.tiff")
    assert decode(tmp_path / "a.tiff").mode == "RGB"


def test_an_absent_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no image .*nothing\.jpg.*is their folder right"):
        decode(tmp_path / "nothing.jpg")


@pytest.mark.parametrize("name, keep", [("cut.jpg", 0.5), ("cut.png", 0.5), ("empty.jpg", 0.0)])
def test_a_damaged_image_is_named(tmp_path: Path, name: str, keep: float) -> None:
    path = tmp_path / name
    noise(200, 200).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ValueError, match=f"cannot read the image .*{name}.*replace the file"):
        decode(path)


def test_text_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("<html>404</html>")
    with pytest.raises(ValueError, match=r"cannot read the image .*a\.jpg"):
        decode(tmp_path / "a.jpg")


@pytest.mark.parametrize("side", [12_000, 60_000])
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    huge_png(tmp_path / "bomb.png", side)
    with pytest.raises(ValueError, match=r"cannot read the image .*bomb\.png.*pixels"):
        decode(tmp_path / "bomb.png")


@pytest.mark.parametrize(
    "key", ["../secret.jpg", "a/../../secret.jpg", "/etc/passwd", "", ".", "a\\..\\b", "c:/b", "a\0b"]
)
def test_a_key_cannot_leave_the_folder(tmp_path: Path, key: str) -> None:
    root = tmp_path / "images"
    root.mkdir()
    noise().save(tmp_path / "secret.jpg")
    with pytest.raises(ValueError, match="not a path below the image folder"):
        Folder(root).open(key)


def test_a_folder_opens_its_images_and_knows_their_size(tmp_path: Path) -> None:
    (tmp_path / "val2014").mkdir()
    noise(17, 11).save(tmp_path / "val2014/a..b.png")
    folder = Folder(tmp_path)
    assert np.array_equal(folder.open("val2014/a..b.png"), noise(17, 11))
    assert folder.size("./val2014/a..b.png") == (17, 11)
    with pytest.raises(ValueError, match=r"cannot read .*none\.png"):
        folder.size("none.png")


def test_a_folder_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no image folder .*nowhere"):
        Folder(tmp_path / "nowhere")


def test_inside_keeps_the_path() -> None:
    assert str(inside("train2014/COCO_1.jpg")) == "train2014/COCO_1.jpg"


def test_normalisation_by_hand() -> None:
    tensor = to_tensor(Image.new("RGB", (2, 3), (255, 0, 51)))
    assert tensor.shape == (3, 3, 2)
    assert tensor.dtype == torch.float32
    expected = [(v - m) / s for v, m, s in zip((1.0, 0.0, 0.2), MEAN, STD, strict=True)]
    assert tensor[:, 0, 0].tolist() == pytest.approx(expected)


def test_evaluation_squashes_the_whole_image() -> None:
    image = noise(40, 30)
    tensor = Eval(16)(image, generator(0, 0, 0))
    assert torch.equal(tensor, to_tensor(image.resize((16, 16), Image.Resampling.BICUBIC)))


def test_evaluation_leaves_an_image_of_its_size_alone() -> None:
    image = noise(16, 16)
    assert torch.equal(Eval(16)(image, generator(0, 0, 0)), to_tensor(image))


@pytest.mark.parametrize("transform", [Augment(24), Light(24), Eval(24)])
def test_a_transform_depends_on_its_generator_alone(transform: Eval) -> None:
    first = transform(noise(), generator(3, 1, 4))
    np.random.default_rng().random(7)
    assert torch.equal(first, transform(noise(), generator(3, 1, 4)))
    assert first.shape == (3, 24, 24)


def test_samples_and_epochs_differ() -> None:
    places = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    seen = [Augment(24)(noise(), generator(*place)) for place in places]
    assert not any(torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])


def test_light_shifts_and_repeats_the_border() -> None:
    image = noise(12, 12)
    pixels = np.asarray(image)
    rows = {tuple(np.clip(np.arange(12) + d, 0, 11)) for d in range(-2, 3)}
    allowed = [to_tensor(Image.fromarray(pixels[np.ix_(r, c)])) for r in rows for c in rows]
    drawn = [Light(12, shift=2)(image, generator(0, 0, i)) for i in range(60)]
    assert all(any(torch.equal(d, a) for a in allowed) for d in drawn)
    assert len({d.numpy().tobytes() for d in drawn}) > 15


def test_light_without_shift_changes_nothing() -> None:
    assert torch.equal(Light(30, shift=0)(noise(30, 30), generator(0, 0, 0)), to_tensor(noise(30, 30)))


def test_half_of_the_images_are_flipped() -> None:
    image = noise(20, 20)
    plain = Augment(20, scale=(1.0, 1.0), flip=0.0, n=0)
    flips = Augment(20, scale=(1.0, 1.0), flip=0.5, n=0)
    still = sum(torch.equal(flips(image, generator(0, 0, i)), plain(image, generator(0, 0, i))) for i in range(200))
    mirrored = Augment(20, scale=(1.0, 1.0), flip=1.0, n=0)(image, generator(0, 0, 0))
    assert 70 < still < 130
    assert torch.equal(mirrored.flip(2), plain(image, generator(0, 0, 0)))


def test_crops_keep_their_share_and_shape() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        left, top, right, lower = crop_box(200, 150, (0.5, 1.0), rng)
        w, h = right - left, lower - top
        assert min(left, top) >= 0
        assert right <= 200
        assert lower <= 150
        assert 0.48 <= w * h / 30_000 <= 1
        assert 0.73 <= w / h <= 1.36


def test_an_image_no_crop_fits_into_gives_its_middle() -> None:
    assert crop_box(100, 10, (1.0, 1.0), np.random.default_rng(0)) == (43, 0, 56, 10)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: Eval(0), "size of an image must be at least 1 pixel, got 0"),
        (lambda: Light(8, shift=8), r"shift must be in 0\.\.7 pixels, got 8"),
        (lambda: Augment(8, scale=(0.0, 1.0)), r"scale must be two shares"),
        (lambda: Augment(8, flip=1.5), r"flip is a share or probability in \[0, 1\], got 1.5"),
        (lambda: Augment(8, m=11), r"m in 0\.\.10, got n=2, m=11"),
    ],
)
def test_settings_out_of_range_are_refused(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


# --- decoding smaller ---


def photo(path: Path, width: int, height: int) -> Path:
    ramp = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 3))
    Image.fromarray(ramp.astype(np.uint8)).save(path, quality=95)
    return path


@pytest.mark.parametrize(
    "least, width",
    [((800, 640), 800), ((401, 10), 800), ((400, 320), 400), ((200, 160), 200), ((199, 10), 200), ((9, 9), 100)],
)
def test_a_jpeg_is_decoded_no_smaller_than_asked(tmp_path: Path, least: tuple[int, int], width: int) -> None:
    image = decode(photo(tmp_path / "a.jpg", 800, 640), lambda size: least)
    assert image.size == (width, width * 640 // 800)
    assert image.mode == "RGB"


def test_no_crop_of_a_smaller_decoding_is_enlarged(tmp_path: Path) -> None:
    augment = Augment(64, scale=(0.5, 1.0))
    image = decode(photo(tmp_path / "a.jpg", 800, 640), augment.least)
    assert image.size == (200, 160)
    for seed in range(200):
        left, top, right, lower = crop_box(*image.size, augment.scale, generator(seed))
        assert min(right - left, lower - top) >= 64


def test_a_png_is_decoded_as_it_is(tmp_path: Path) -> None:
    noise(200, 160).save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png", lambda size: (10, 10)).size == (200, 160)
