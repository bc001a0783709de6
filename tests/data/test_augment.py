"""The ten operations on images small enough to work out, and how they are drawn."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from vlp_bench.data.augment import (
    COLOUR_OPERATIONS,
    FILL,
    OPERATIONS,
    RandAugment,
    auto_contrast,
    brightness,
    equalize,
    identity,
    released_auto_contrast,
    released_sharpness,
    rotate,
    sharpness,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
)


def flat(*values: int) -> Image.Image:
    """One row of grey pixels."""
    return Image.fromarray(np.repeat(np.array([values], np.uint8)[:, :, None], 3, axis=2))


def noise(side: int = 21) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(256, size=(side, side, 3), dtype=np.uint8))


def grey(image: Image.Image) -> list[list[int]]:
    return np.asarray(image)[:, :, 0].tolist()


def test_identity_is_the_image() -> None:
    assert identity(noise(), 0.7) == noise()


def test_auto_contrast_stretches_from_darkest_to_brightest() -> None:
    assert grey(auto_contrast(flat(50, 101, 152), 0.7)) == [[0, 127, 255]]


def test_equalize_spreads_the_values_evenly() -> None:
    image = flat(*[10] * 510, *[20] * 510, *[30] * 100)  # a step of the table is (510 + 510) / 255 = 4 pixels
    assert grey(equalize(image, 0.7)) == [[0] * 510 + [128] * 510 + [255] * 100]


def test_brightness_is_1_36_at_strength_seven() -> None:
    assert grey(brightness(flat(0, 100, 200), 0.7)) == [[0, 136, 255]]
    assert brightness(noise(), 0.5) == noise()


def test_sharpness_moves_away_from_the_smoothed_image() -> None:
    image = Image.new("RGB", (3, 3), (100, 100, 100))
    image.putpixel(
        (1, 1), (113, 113, 113)
    )  # smoothed with 1 1 1 / 1 5 1 / 1 1 1 over 13: (8 * 100 + 5 * 113) / 13 = 105
    assert grey(sharpness(image, 0.7))[1][1] in (115, 116)  # 105 + 1.36 * (113 - 105)
    assert grey(sharpness(image, 0.7))[0] == [100, 100, 100]


def test_translation_is_seven_pixels_at_strength_seven() -> None:
    pixels = np.asarray(noise())
    assert np.array_equal(np.asarray(translate_x(noise(), 0.7))[:, :-7], pixels[:, 7:])
    assert np.array_equal(np.asarray(translate_x(noise(), -0.7))[:, 7:], pixels[:, :-7])
    assert np.array_equal(np.asarray(translate_y(noise(), 0.7))[:-7], pixels[7:])
    assert np.asarray(translate_y(noise(), 0.7))[-1, 0].tolist() == list(FILL)


def test_shear_moves_each_row_by_its_height() -> None:
    side = 100
    image = Image.new("RGB", (side, side))
    for y in range(side):
        image.putpixel((10, y), (255, 255, 255))
    sheared = np.asarray(shear_x(image, 1.0))[:, :, 0].astype(float)
    centre = [
        (row * np.arange(side) * (row != FILL[0])).sum() / (row * (row != FILL[0])).sum() for row in sheared[10:90]
    ]
    assert np.allclose(np.diff(centre).mean(), 0.3, atol=0.01)
    turned = shear_y(image.transpose(Image.Transpose.TRANSPOSE), 1.0).transpose(Image.Transpose.TRANSPOSE)
    assert np.array_equal(np.asarray(turned), np.asarray(shear_x(image, 1.0)))


def test_rotation_turns_about_the_middle_and_back() -> None:
    image = Image.new("RGB", (41, 41), FILL)
    image.putpixel((40, 20), (255, 0, 0))
    for x in range(20, 41):
        image.putpixel((x, 20), (255, 0, 0))
    up = np.asarray(rotate(image, 1.0))[:, :, 1]
    down = np.asarray(rotate(image, -1.0))[:, :, 1]
    assert up[:20].min() < 60 < up[23:].min()
    assert np.array_equal(up, down[::-1])


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_keeps_size_and_mode(operation) -> None:
    changed = operation(noise(), 0.7)
    assert (changed.size, changed.mode) == ((21, 21), "RGB")


def test_operations_that_move_pixels_are_not_among_the_colour_ones() -> None:
    assert set(OPERATIONS) - set(COLOUR_OPERATIONS) == {shear_x, shear_y, translate_x, translate_y, rotate}
    assert len(OPERATIONS) == 10


def test_two_draws_of_ten_each_kept_half_of_the_time() -> None:
    calls: list[float] = []

    def count(image: Image.Image, strength: float) -> Image.Image:
        calls.append(strength)
        return image

    rng = np.random.default_rng(0)
    for _ in range(1000):
        RandAugment(2, 7, (count,))(noise(2), rng)
    assert 900 < len(calls) < 1100
    assert set(calls) == {0.7, -0.7}
    assert 0.4 < np.mean(np.array(calls) > 0) < 0.6


def test_nothing_drawn_changes_nothing() -> None:
    assert RandAugment(0)(noise(), np.random.default_rng(0)) == noise()


# --- as released ---


def test_released_auto_contrast_turns_channels_without_zero_white() -> None:
    pixels = np.asarray(noise()).copy()
    pixels[..., 1] = pixels[..., 1].clip(40, 200)
    pixels[0, 0] = 0, 40, 0
    changed = np.asarray(released_auto_contrast(Image.fromarray(pixels), 0.7))
    assert (changed[..., 1] == 255).all()
    stretched = np.asarray(auto_contrast(Image.fromarray(pixels), 0.7))
    assert np.abs(changed[..., [0, 2]].astype(int) - stretched[..., [0, 2]]).max() <= 1


def test_released_sharpness_wraps_around_and_agrees_elsewhere() -> None:
    pixels = np.full((5, 5, 3), 100, dtype=np.uint8)
    pixels[2, 2] = 255
    changed = np.asarray(released_sharpness(Image.fromarray(pixels), 0.7))
    smooth = round((8 * 100 + 5 * 255) / 13)
    assert changed[2, 2, 0] == int(smooth + np.float32(1.36) * (255 - smooth)) % 256
    assert changed[2, 2, 0] < 100
    soft = Image.fromarray((np.asarray(noise()) // 4 + 96).astype(np.uint8))
    assert np.array_equal(
        np.asarray(released_sharpness(soft, 0.7))[1:-1, 1:-1], np.asarray(sharpness(soft, 0.7))[1:-1, 1:-1]
    )


def test_compat_exchanges_the_two_operations_alone() -> None:
    official = RandAugment(compat="official").operations
    assert {a.__name__ for a, b in zip(OPERATIONS, official) if a is not b} == {"auto_contrast", "sharpness"}
    with pytest.raises(ValueError, match="compat is null or official, got 'released'"):
        RandAugment(compat="released")


def test_brightness_by_table_equals_pils() -> None:
    for strength in (0.0, 0.3, 0.7, 1.0):
        expected = ImageEnhance.Brightness(noise()).enhance(strength * 1.8 + 0.1)
        assert np.array_equal(np.asarray(brightness(noise(), strength)), np.asarray(expected))


def test_whole_pixels_are_moved_as_pil_moves_them() -> None:
    for strength in (0.7, -0.7, 0.25):
        matrix = (1, 0, 10 * strength, 0, 1, 0)
        bilinear = Image.Resampling.BILINEAR
        moved = noise().transform((21, 21), Image.Transform.AFFINE, matrix, bilinear, fillcolor=FILL)
        assert np.array_equal(np.asarray(translate_x(noise(), strength)), np.asarray(moved))
