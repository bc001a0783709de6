"""The ten operations on images small enough to work out, against PIL's own, and how they are drawn."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from vlp_bench.data.transforms.augment import (
    COLOUR_OPERATIONS,
    FILL,
    OPERATIONS,
    Planes,
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


def flat(*values: int) -> Planes:
    """One row of grey pixels."""
    return np.repeat(np.array([[values]], np.uint8), 3, axis=0)


def noise(side: int = 21) -> Planes:
    return np.random.default_rng(0).integers(256, size=(3, side, side), dtype=np.uint8)


def picture(planes: Planes) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0)))


def planes_of(image: Image.Image) -> Planes:
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def grey(planes: Planes) -> list[list[int]]:
    return planes[0].tolist()


def test_identity_is_the_image() -> None:
    assert np.array_equal(identity(noise(), 0.7), noise())


def test_auto_contrast_stretches_from_darkest_to_brightest() -> None:
    assert grey(auto_contrast(flat(50, 101, 152), 0.7)) == [[0, 127, 255]]


def test_equalize_spreads_the_values_evenly() -> None:
    image = flat(*[10] * 510, *[20] * 510, *[30] * 100)  # a step of the table is (510 + 510) / 255 = 4 pixels
    assert grey(equalize(image, 0.7)) == [[0] * 510 + [128] * 510 + [255] * 100]


def test_brightness_is_1_36_at_strength_seven() -> None:
    assert grey(brightness(flat(0, 100, 200), 0.7)) == [[0, 136, 255]]
    assert np.array_equal(brightness(noise(), 0.5), noise())


def test_sharpness_moves_away_from_the_smoothed_image() -> None:
    image = np.full((3, 3, 3), 100, np.uint8)
    image[:, 1, 1] = 113  # smoothed with 1 1 1 / 1 5 1 / 1 1 1 over 13: (8 * 100 + 5 * 113) / 13 = 105
    assert grey(sharpness(image, 0.7))[1][1] in (115, 116)  # 105 + 1.36 * (113 - 105)
    assert grey(sharpness(image, 0.7))[0] == [100, 100, 100]


def test_translation_is_seven_pixels_at_strength_seven() -> None:
    assert np.array_equal(translate_x(noise(), 0.7)[:, :, :-7], noise()[:, :, 7:])
    assert np.array_equal(translate_x(noise(), -0.7)[:, :, 7:], noise()[:, :, :-7])
    assert np.array_equal(translate_y(noise(), 0.7)[:, :-7], noise()[:, 7:])
    assert translate_y(noise(), 0.7)[:, -1, 0].tolist() == list(FILL)


def test_what_is_moved_out_of_sight_leaves_grey() -> None:
    assert (translate_x(noise(5), 0.7) == FILL[0]).all()
    assert (translate_y(noise(7), -0.7) == FILL[0]).all()


def test_shear_moves_each_row_by_its_height() -> None:
    side = 100
    image = np.zeros((3, side, side), np.uint8)
    image[:, :, 10] = 255
    sheared = shear_x(image, 1.0)[0].astype(float)
    centre = [
        (row * np.arange(side) * (row != FILL[0])).sum() / (row * (row != FILL[0])).sum() for row in sheared[10:90]
    ]
    assert np.allclose(np.diff(centre).mean(), 0.3, atol=0.01)
    turned = shear_y(np.ascontiguousarray(image.transpose(0, 2, 1)), 1.0).transpose(0, 2, 1)
    assert np.array_equal(turned, shear_x(image, 1.0))


def test_rotation_turns_about_the_middle_and_back() -> None:
    image = np.full((3, 41, 41), FILL[0], np.uint8)
    image[:, 20, 20:] = np.array([[255], [0], [0]])
    up, down = rotate(image, 1.0)[1], rotate(image, -1.0)[1]
    assert up[:20].min() < 60 < up[23:].min()
    assert np.array_equal(up, down[::-1])


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_keeps_the_shape_and_what_it_was_given(operation) -> None:
    given = noise()
    changed = operation(given, 0.7)
    assert (changed.shape, changed.dtype, changed.flags.c_contiguous) == ((3, 21, 21), np.uint8, True)
    assert np.array_equal(given, noise())


def pil_affine(*matrix: float) -> Callable[[Image.Image], Image.Image]:
    how = (Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return lambda image: image.transform(image.size, *how, fillcolor=FILL)


@pytest.mark.parametrize("strength", [0.7, -0.7, 0.33])
@pytest.mark.parametrize("shape", [(3, 96, 96), (3, 33, 50)])
def test_moves_are_pils_bilinear_ones(shape: tuple[int, int, int], strength: float) -> None:
    """Both round down, so that a mean next to a whole number may fall on either side of it."""
    image = np.random.default_rng(1).integers(256, size=shape, dtype=np.uint8)
    by_pil = {
        shear_x: pil_affine(1, -0.3 * strength, 0, 0, 1, 0),
        shear_y: pil_affine(1, 0, 0, -0.3 * strength, 1, 0),
        translate_x: pil_affine(1, 0, 10 * strength, 0, 1, 0),
        translate_y: pil_affine(1, 0, 0, 0, 1, 10 * strength),
        rotate: lambda image: image.rotate(30 * strength, Image.Resampling.BILINEAR, fillcolor=FILL),
    }
    for operation, expected in by_pil.items():
        apart = np.abs(operation(image, strength).astype(int) - planes_of(expected(picture(image))))
        assert apart.max() <= 1, operation
        assert (apart > 0).mean() < 0.05, operation


@pytest.mark.parametrize("strength", [0.0, 0.35, 0.7, 1.0])
def test_sharpness_is_pils(strength: float) -> None:
    for planes in (noise(), noise() // 4 + 96, np.random.default_rng(2).integers(256, size=(3, 9, 30), dtype=np.uint8)):
        expected = ImageEnhance.Sharpness(picture(planes)).enhance(strength * 1.8 + 0.1)
        assert np.array_equal(sharpness(planes, strength), planes_of(expected))


def test_operations_that_move_pixels_are_not_among_the_colour_ones() -> None:
    assert set(OPERATIONS) - set(COLOUR_OPERATIONS) == {shear_x, shear_y, translate_x, translate_y, rotate}
    assert len(OPERATIONS) == 10


def test_two_draws_of_ten_each_kept_half_of_the_time() -> None:
    calls: list[float] = []

    def count(planes: Planes, strength: float) -> Planes:
        calls.append(strength)
        return planes

    rng = np.random.default_rng(0)
    for _ in range(1000):
        RandAugment(2, 7, (count,))(noise(2), rng)
    assert 900 < len(calls) < 1100
    assert set(calls) == {0.7, -0.7}
    assert 0.4 < np.mean(np.array(calls) > 0) < 0.6


def test_nothing_drawn_changes_nothing() -> None:
    assert np.array_equal(RandAugment(0)(noise(), np.random.default_rng(0)), noise())


# --- as released ---


def test_released_auto_contrast_turns_channels_without_zero_white() -> None:
    planes = noise()
    planes[1] = planes[1].clip(40, 200)
    planes[:, 0, 0] = 0, 40, 0
    changed = released_auto_contrast(planes, 0.7)
    assert (changed[1] == 255).all()
    stretched = auto_contrast(planes, 0.7)
    assert np.abs(changed[[0, 2]].astype(int) - stretched[[0, 2]]).max() <= 1


def test_released_sharpness_wraps_around_and_agrees_elsewhere() -> None:
    planes = np.full((3, 5, 5), 100, dtype=np.uint8)
    planes[:, 2, 2] = 255
    changed = released_sharpness(planes, 0.7)
    smooth = round((8 * 100 + 5 * 255) / 13)
    assert changed[0, 2, 2] == int(smooth + np.float32(1.36) * (255 - smooth)) % 256
    assert changed[0, 2, 2] < 100
    soft = noise() // 4 + 96
    assert np.array_equal(released_sharpness(soft, 0.7)[:, 1:-1, 1:-1], sharpness(soft, 0.7)[:, 1:-1, 1:-1])


def test_compat_exchanges_the_two_operations_alone() -> None:
    official = RandAugment(compat="official").operations
    assert {a.__name__ for a, b in zip(OPERATIONS, official) if a is not b} == {"auto_contrast", "sharpness"}
    with pytest.raises(ValueError, match="compat is null or official, got 'released'"):
        RandAugment(compat="released")


def test_brightness_by_table_equals_pils() -> None:
    for strength in (0.0, 0.3, 0.7, 1.0):
        expected = ImageEnhance.Brightness(picture(noise())).enhance(strength * 1.8 + 0.1)
        assert np.array_equal(brightness(noise(), strength), planes_of(expected))


def test_whole_and_half_pixels_are_moved_as_pil_moves_them() -> None:
    for strength in (0.7, -0.7, 0.25):
        moved = pil_affine(1, 0, 10 * strength, 0, 1, 0)(picture(noise()))
        assert np.array_equal(translate_x(noise(), strength), planes_of(moved))
