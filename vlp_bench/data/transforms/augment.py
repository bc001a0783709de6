"""RandAugment as the papers use it: ten operations on the planes of an image, N at a time, strength M of 10.

Strengths follow the released code (data sets of X-VLM, BLIP and MULTIFLOW). Its AutoContrast and Sharpness wrap around
in 8 bits; here they are PIL's own, unless `compat` asks for the released ones. What PIL does slowly (bilinear moves,
sharpness) is computed here to the same values. Shape legend: h, w height and width.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

GREY = 128
FILL = (GREY, GREY, GREY)
STRONGEST = 10
_ALMOST = 1 / 128
"""Above the error of a bilinear mean in single precision, far below a step of 8 bits."""

Planes = np.ndarray
"""(3, h, w) uint8, each plane contiguous; never written to."""
Operation = Callable[[Planes, float], Planes]
"""(planes, strength in -1..1) -> planes; the sign is the direction of those that have one."""
Matrix = tuple[float, float, float, float, float, float]
"""a, b, c, d, e, f: a pixel at (x, y) is what was at (a x + b y + c, d x + e y + f)."""


def _by_plane(planes: Planes, operation: Callable[[Image.Image], Image.Image]) -> Planes:
    """Every plane on its own, as a grey image."""
    made = np.empty_like(planes)
    for into, plane in zip(made, planes):
        into[:] = np.asarray(operation(Image.fromarray(plane)))
    return made


@lru_cache(maxsize=16)
def _sources(width: int, height: int, matrix: Matrix) -> tuple[Tensor, np.ndarray]:
    """(1, h, w, 2), whence each pixel comes (-1 to 1 from border to border), and (h, w) which come from outside."""
    a, b, c, d, e, f = matrix
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    across, down = a * x + b * y + c, d * x + e * y + f
    outside = (across < 0) | (across >= width) | (down < 0) | (down >= height)
    places = np.stack([across * 2 / width - 1, down * 2 / height - 1], axis=-1)
    return torch.from_numpy(places.astype(np.float32))[None], outside


def _affine(planes: Planes, matrix: Matrix) -> Planes:
    """As PIL's bilinear transform: rounded down, the border repeated, FILL for what comes from outside."""
    places, outside = _sources(planes.shape[2], planes.shape[1], matrix)
    values = torch.from_numpy(planes).float()[None]
    [moved] = F.grid_sample(values, places, mode="bilinear", padding_mode="border", align_corners=False).numpy()
    moved += _ALMOST
    made = moved.astype(np.uint8)
    np.copyto(made, GREY, where=outside)
    return made


def _factor(strength: float) -> float:
    """Of PIL's enhancers: 0.1 at strength 0, 1.0 (no change) at 0.5, 1.9 at 1; direction plays no part."""
    return abs(strength) * 1.8 + 0.1


def identity(planes: Planes, strength: float) -> Planes:
    """The image."""
    return planes


def auto_contrast(planes: Planes, strength: float) -> Planes:
    """Stretch every channel to the full range."""
    return _by_plane(planes, ImageOps.autocontrast)


def equalize(planes: Planes, strength: float) -> Planes:
    """Flatten the histogram of every channel."""
    return _by_plane(planes, ImageOps.equalize)


def brightness(planes: Planes, strength: float) -> Planes:
    """Multiply every value."""
    return _by_tables(planes, [[min(255, int(value * _factor(strength))) for value in range(256)]] * 3)


def _by_tables(planes: Planes, tables: Sequence[Sequence[int]]) -> Planes:
    """Every value exchanged by the table of its plane."""
    content = b"".join(plane.tobytes().translate(bytes(table)) for plane, table in zip(planes, tables))
    return np.frombuffer(bytearray(content), np.uint8).reshape(planes.shape)


def sharpness(planes: Planes, strength: float) -> Planes:
    """Away from the smoothed image; the border of one pixel is left alone."""
    made = planes.copy()
    for into, plane in zip(made, planes):
        into[1:-1, 1:-1] = _sharper(plane, strength).clip(0, 255)
    return made


def _sharper(plane: np.ndarray, strength: float) -> np.ndarray:
    """(h, w) uint8 -> (h - 2, w - 2) float32, not cut to 8 bits."""
    smooth = _smooth(plane)
    away = (plane[1:-1, 1:-1] - smooth).astype(np.float32)
    away *= np.float32(_factor(strength))
    away += smooth
    return away


def _smooth(plane: np.ndarray) -> np.ndarray:
    """(h, w) uint8 -> (h - 2, w - 2) int16, the means of PIL's SMOOTH: 1 1 1 / 1 5 1 / 1 1 1 over 13, rounded."""
    values = plane.astype(np.int16)
    rows = values[:-2] + values[1:-1]
    rows += values[2:]
    total = rows[:, :-2] + rows[:, 1:-1]
    total += rows[:, 2:]
    total += values[1:-1, 1:-1] << 2
    total += 6
    total //= 13
    return total


def shear_x(planes: Planes, strength: float) -> Planes:
    """Up to 0.3 pixels to the side per pixel down."""
    return _affine(planes, (1, -0.3 * strength, 0, 0, 1, 0))


def shear_y(planes: Planes, strength: float) -> Planes:
    """Up to 0.3 pixels down per pixel to the side."""
    return _affine(planes, (1, 0, 0, -0.3 * strength, 1, 0))


def translate_x(planes: Planes, strength: float) -> Planes:
    """Up to 10 pixels to the side, whatever the size of the image."""
    return _moved(planes, 10 * strength, 0)


def translate_y(planes: Planes, strength: float) -> Planes:
    """Up to 10 pixels up or down."""
    return _moved(planes, 0, 10 * strength)


def _moved(planes: Planes, left: float, up: float) -> Planes:
    if left % 1 or up % 1:
        return _affine(planes, (1, 0, left, 0, 1, up))
    made = np.full_like(planes, GREY)  # whole pixels: the same in a twentieth of the time
    (rows, shown_rows), (columns, shown_columns) = _kept(planes.shape[1], int(up)), _kept(planes.shape[2], int(left))
    made[:, shown_rows, shown_columns] = planes[:, rows, columns]
    return made


def _kept(length: int, back: int) -> tuple[slice, slice]:
    """What stays of a line that is moved back (or, below 0, forth), before and after."""
    still = max(0, length - abs(back))
    before, after = (back, 0) if back > 0 else (0, -back)
    return slice(before, before + still), slice(after, after + still)


def rotate(planes: Planes, strength: float) -> Planes:
    """Up to 30 degrees about the middle."""
    (height, width), angle = planes.shape[1:], math.radians(30 * strength)
    cos, sin, x, y = math.cos(angle), math.sin(angle), width / 2, height / 2
    return _affine(planes, (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y))


COLOUR_OPERATIONS: tuple[Operation, ...] = (identity, auto_contrast, equalize, brightness, sharpness)
"""What may be done to an image whose boxes must stay where they are."""
OPERATIONS: tuple[Operation, ...] = (*COLOUR_OPERATIONS, shear_x, shear_y, translate_x, translate_y, rotate)


def released_auto_contrast(planes: Planes, strength: float) -> Planes:
    """As released: the offset of the stretch wraps in 8 bits, so a channel without a 0 becomes white."""
    tables: list[list[int]] = []
    for plane in planes:
        low, high = plane.min().item(), plane.max().item()
        scale = 255 / (high - low) if high > low else 1.0
        offset = (-low) % 256 * scale if high > low else 0.0
        tables.append([int(min(255.0, max(0.0, value * scale + offset))) for value in range(256)])
    return _by_tables(planes, tables)


def released_sharpness(planes: Planes, strength: float) -> Planes:
    """As released: values beyond 0..255 wrap around; the border of one pixel is left alone."""
    made = planes.copy()
    for into, plane in zip(made, planes):
        into[1:-1, 1:-1] = _sharper(plane, strength).astype(np.int32)
    return made


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

    def __call__(self, planes: Planes, rng: np.random.Generator) -> Planes:
        """The planes of the augmented image, of the same size."""
        for which in rng.integers(len(self.operations), size=self.n):
            keep, sign = rng.random(2) < 0.5
            if keep:
                planes = self.operations[which](planes, self.strength if sign else -self.strength)
        return planes
