"""RandAugment as the papers use it: ten operations on PIL images, N at a time, strength M of 10.

Strengths follow the released code (data sets of X-VLM, BLIP and MULTIFLOW). Its AutoContrast and Sharpness wrap around
in 8 bits; here they are PIL's own, unless `compat` asks for the released ones.
"""

from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

FILL = (128, 128, 128)
STRONGEST = 10

Operation = Callable[[Image.Image, float], Image.Image]
"""(image, strength in -1..1) -> image; the sign is the direction of those that have one."""


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=FILL)


def _factor(strength: float) -> float:
    """Of PIL's enhancers: 0.1 at strength 0, 1.0 (no change) at 0.5, 1.9 at 1; direction plays no part."""
    return abs(strength) * 1.8 + 0.1


def identity(image: Image.Image, strength: float) -> Image.Image:
    """The image."""
    return image


def auto_contrast(image: Image.Image, strength: float) -> Image.Image:
    """Stretch every channel to the full range."""
    return ImageOps.autocontrast(image)


def equalize(image: Image.Image, strength: float) -> Image.Image:
    """Flatten the histogram of every channel."""
    return ImageOps.equalize(image)


def brightness(image: Image.Image, strength: float) -> Image.Image:
    """Multiply every value."""
    return image.point([min(255, int(value * _factor(strength))) for value in range(256)] * 3)


def sharpness(image: Image.Image, strength: float) -> Image.Image:
    """Away from the smoothed image."""
    return ImageEnhance.Sharpness(image).enhance(_factor(strength))


def shear_x(image: Image.Image, strength: float) -> Image.Image:
    """Up to 0.3 pixels to the side per pixel down."""
    return _affine(image, (1, -0.3 * strength, 0, 0, 1, 0))


def shear_y(image: Image.Image, strength: float) -> Image.Image:
    """Up to 0.3 pixels down per pixel to the side."""
    return _affine(image, (1, 0, 0, -0.3 * strength, 1, 0))


def translate_x(image: Image.Image, strength: float) -> Image.Image:
    """Up to 10 pixels to the side, whatever the size of the image."""
    return _moved(image, 10 * strength, 0)


def translate_y(image: Image.Image, strength: float) -> Image.Image:
    """Up to 10 pixels up or down."""
    return _moved(image, 0, 10 * strength)


def _moved(image: Image.Image, left: float, up: float) -> Image.Image:
    if left % 1 or up % 1:
        return _affine(image, (1, 0, left, 0, 1, up))
    moved = Image.new("RGB", image.size, FILL)  # the same pixels, a tenth of the time
    moved.paste(image, (-int(left), -int(up)))
    return moved


def rotate(image: Image.Image, strength: float) -> Image.Image:
    """Up to 30 degrees."""
    return image.rotate(30 * strength, Image.Resampling.BILINEAR, fillcolor=FILL)


COLOUR_OPERATIONS: tuple[Operation, ...] = (identity, auto_contrast, equalize, brightness, sharpness)
"""What may be done to an image whose boxes must stay where they are."""
OPERATIONS: tuple[Operation, ...] = (*COLOUR_OPERATIONS, shear_x, shear_y, translate_x, translate_y, rotate)


def released_auto_contrast(image: Image.Image, strength: float) -> Image.Image:
    """As released: the offset of the stretch wraps in 8 bits, so a channel without a 0 becomes white."""
    table: list[int] = []
    for channel in image.split():
        low, high = np.asarray(channel).min().item(), np.asarray(channel).max().item()
        scale = 255 / (high - low) if high > low else 1.0
        offset = (-low) % 256 * scale if high > low else 0.0
        table += [int(min(255.0, max(0.0, value * scale + offset))) for value in range(256)]
    return image.point(table)


def released_sharpness(image: Image.Image, strength: float) -> Image.Image:
    """As released: values beyond 0..255 wrap around; the border of one pixel is left alone."""
    pixels = np.array(image)
    smooth = np.asarray(image.filter(ImageFilter.SMOOTH))[1:-1, 1:-1].astype(np.float32)
    sharp = smooth + np.float32(_factor(strength)) * (pixels[1:-1, 1:-1].astype(np.float32) - smooth)
    pixels[1:-1, 1:-1] = sharp.astype(np.int32).astype(np.uint8)
    return Image.fromarray(pixels)


RELEASED: Mapping[Operation, Operation] = {auto_contrast: released_auto_contrast, sharpness: released_sharpness}


class RandAugment:
    """`n` operations drawn with replacement, each applied with probability one half at strength `m` of 10.

    `compat="official"` takes the released operations with their overflows (RELEASED) instead of the corrected ones.

    Raises:
        ValueError: n is below 0, m outside 0..10, or compat neither None nor "official".
    """

    def __init__(
        self,
        n: int = 2,
        m: float = 7,
        operations: tuple[Operation, ...] = OPERATIONS,
        compat: str | None = None,
    ) -> None:
        if n < 0 or not 0 <= m <= STRONGEST:
            raise ValueError(f"RandAugment needs n >= 0 and m in 0..{STRONGEST}, got n={n}, m={m}")
        if compat not in (None, "official"):
            raise ValueError(f"RandAugment's compat is null or official, got {compat!r}")
        self.n = n
        self.strength = m / STRONGEST
        self.operations = operations if compat is None else tuple(RELEASED.get(o, o) for o in operations)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """The augmented RGB image, of the same size."""
        for which in rng.integers(len(self.operations), size=self.n):
            keep, sign = rng.random(2) < 0.5
            if keep:
                image = self.operations[which](image, self.strength if sign else -self.strength)
        return image
