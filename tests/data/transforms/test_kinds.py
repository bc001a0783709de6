"""Images of every kind become what a person sees: alpha on white, 16 bits and floats scaled, EXIF obeyed or not."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from vlp_bench.data.readers.shards import Parquet, Shards
from vlp_bench.data.transforms.decoding import (
    CMYK,
    DEEP,
    FLOATS,
    FRAMES,
    KINDS,
    STORED,
    TRANSPARENT,
    TURNED,
    BrokenImage,
    Folder,
    decode,
    decode_bytes,
)


def seen(path: Path, **settings: bool) -> tuple[list[list[int]], tuple[str, ...]]:
    """The first row of an image, and what it was."""
    image = decode(path, **settings)
    return np.asarray(image)[0].tolist(), image.info.get(KINDS, ())


@pytest.mark.parametrize("form", ["png", "webp", "tiff"])
def test_what_is_transparent_is_white(tmp_path: Path, form: str) -> None:
    pixels = np.array([[[255, 0, 0, 255], [0, 0, 0, 0], [0, 0, 255, 128]]], np.uint8)
    lossless = {"lossless": True, "exact": True} if form == "webp" else {}
    Image.fromarray(pixels).save(tmp_path / f"a.{form}", **lossless)
    row, kinds = seen(tmp_path / f"a.{form}")
    assert row == [[255, 0, 0], [255, 255, 255], [127, 127, 255]]
    assert kinds == (TRANSPARENT,)


def test_a_palette_and_a_colour_may_be_transparent_too(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 0, 0])
    palette.putdata([0, 1])
    palette.save(tmp_path / "p.png", transparency=0)
    assert seen(tmp_path / "p.png") == ([[255, 255, 255], [200, 0, 0]], (TRANSPARENT,))
    rgb = Image.fromarray(np.array([[[1, 2, 3], [9, 9, 9]]], np.uint8))
    rgb.save(tmp_path / "rgb.png", transparency=(1, 2, 3))
    assert seen(tmp_path / "rgb.png") == ([[255, 255, 255], [9, 9, 9]], (TRANSPARENT,))


def test_an_alpha_that_hides_nothing_changes_nothing(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(np.dstack([pixels, np.full((4, 4), 255, np.uint8)])).save(tmp_path / "a.png")
    image = decode(tmp_path / "a.png")
    assert np.array_equal(np.asarray(image), pixels)
    assert image.info[KINDS] == ()


def test_sixteen_bits_are_scaled_not_cut(tmp_path: Path) -> None:
    for form in ("png", "tiff"):
        Image.fromarray(np.array([[0, 257 * 100, 65535]], np.uint16)).save(tmp_path / f"a.{form}")
        assert seen(tmp_path / f"a.{form}") == ([[0] * 3, [100] * 3, [255] * 3], (DEEP,))


def test_floats_are_scaled_or_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, 0.2, 1.0]], np.float32)).save(tmp_path / "a.tiff")
    assert seen(tmp_path / "a.tiff") == ([[0] * 3, [51] * 3, [255] * 3], (FLOATS,))
    for value in (3.5, -0.1, np.nan):
        Image.fromarray(np.array([[0.0, value]], np.float32)).save(tmp_path / "b.tiff")
        with pytest.raises(BrokenImage, match=r"b\.tiff: its pixels are floats from .* save it as 8-bit"):
            decode(tmp_path / "b.tiff")
    Image.fromarray(np.array([[0, 255]], np.int32)).save(tmp_path / "c.tiff")
    with pytest.raises(BrokenImage, match="32-bit numbers of no known range"):
        decode(tmp_path / "c.tiff")


def test_cmyk_is_told(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    row, kinds = seen(tmp_path / "a.jpg")
    assert np.abs(np.array(row[0]) - [255, 0, 0]).max() < 8
    assert kinds == (CMYK,)


def corner(image: Image.Image) -> tuple[int, int]:
    """(row, column) of the corner that is red."""
    pixels = np.asarray(image)
    h, w = pixels.shape[:2]
    red = {(y, x) for y in (0, h - 1) for x in (0, w - 1) if pixels[y, x, 0] > 200 and pixels[y, x, 1] < 90}
    [(y, x)] = red
    return int(y > 0), int(x > 0)


def turned(orientation: int, form: str = "JPEG", size: tuple[int, int] = (64, 32)) -> bytes:
    """An image that is stored turned, and red in the upper left corner once it is upright."""
    upright = np.zeros((size[1], size[0], 3), np.uint8)
    upright[: size[1] // 4, : size[0] // 4, 0] = 255
    back = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_270}  # fmt: skip
    image = Image.fromarray(upright)
    stored = image.transpose(back[orientation]) if orientation > 1 else image
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    buffer = io.BytesIO()
    stored.save(buffer, form, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_an_image_upright(orientation: int, form: str) -> None:
    image = decode_bytes(turned(orientation, form), "a")
    assert image.size == (64, 32)
    assert corner(image) == (0, 0)
    assert (TURNED in image.info.get(KINDS, ())) is (orientation > 1)


def test_an_upright_tiff_is_turned_once() -> None:
    image = decode_bytes(turned(6, "TIFF"), "a")
    assert (image.size, corner(image)) == ((64, 32), (0, 0))


def test_compat_leaves_an_image_as_it_is_stored() -> None:
    image = decode_bytes(turned(6), "a", upright=False)
    assert image.size == (32, 64)
    assert corner(image) != (0, 0)
    assert image.info[KINDS] == (STORED,)


def test_a_turned_image_is_drafted_by_the_size_it_will_have() -> None:
    image = decode_bytes(turned(6, size=(640, 320)), "a", lambda size: (size[0] // 2, size[1] // 2))
    assert image.size == (320, 160)


def test_odd_metadata_do_not_break_an_image(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x00")
    assert decode(tmp_path / "a.jpg").size == (8, 8)


def test_size_and_image_agree(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(turned(8))
    for upright, size in ((True, (64, 32)), (False, (32, 64))):
        folder = Folder(tmp_path, upright=upright)
        assert folder.size("a.jpg") == folder.open("a.jpg").size == size


def test_shards_and_tables_show_the_same(tmp_path: Path) -> None:
    import tarfile

    content = turned(6)
    (tmp_path / "a.jpg").write_bytes(content)
    (tmp_path / "a.txt").write_text("a red corner")
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        tar.add(tmp_path / "a.jpg", "a.jpg")
        tar.add(tmp_path / "a.txt", "a.txt")
    for upright in (True, False):
        wanted = np.asarray(decode_bytes(content, "a", upright=upright))
        assert np.array_equal(np.asarray(Folder(tmp_path, upright=upright).open("a.jpg")), wanted)
        assert np.array_equal(np.asarray(Shards(tmp_path, upright=upright).open("0.tar/a.jpg")), wanted)
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    parquet.write_table(
        pyarrow.table({"image": [{"bytes": content, "path": "a.jpg"}], "caption": ["a red corner"]}),
        tmp_path / "train.parquet",
    )
    for upright in (True, False):
        wanted = np.asarray(decode_bytes(content, "a", upright=upright))
        assert np.array_equal(np.asarray(Parquet(tmp_path, upright=upright).open("train.parquet/0")), wanted)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_of_several_frames_the_first_is_shown_and_that_is_said(tmp_path, name):
    first, second = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    settings = {"lossless": True} if name.endswith("webp") else {}
    first.save(tmp_path / name, save_all=True, append_images=[second], **settings)
    first.save(tmp_path / f"one-{name}", **settings)
    moving, still = (Folder(tmp_path).open(file) for file in (name, f"one-{name}"))
    assert np.array_equal(np.asarray(moving), np.asarray(first))
    assert (moving.info[KINDS], still.info[KINDS]) == ((FRAMES,), ())
