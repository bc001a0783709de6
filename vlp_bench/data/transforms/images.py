"""Images to tensors: the papers' transforms on PIL and torch.

Everything random in a transform comes from the generator of its sample, so that an image of an epoch looks the same
whatever the number of workers.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlp_bench.data.transforms.augment import Planes, RandAugment
from vlp_bench.data.transforms.decoding import Size

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
RATIOS = (3 / 4, 4 / 3)
"""Width to height of a random crop."""
Range = tuple[float, float]


def normalised(planes: np.ndarray, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> np.ndarray:
    """(3, h, w) uint8 -> float32, (value / 255 - mean) / std for every channel, however the pixels lie in memory."""
    made = np.empty(planes.shape, np.float32)
    for into, plane, shift, scale in zip(made, planes, mean, std, strict=True):
        np.divide(plane, np.float32(255), out=into, dtype=np.float32)  # plane by plane: they stay in the cache
        into -= np.float32(shift)
        into /= np.float32(scale)
    return made


def to_tensor(image: Image.Image, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> Tensor:
    """(3, h, w) float32, (value / 255 - mean) / std for every channel."""
    return torch.from_numpy(normalised(np.asarray(image).transpose(2, 0, 1), mean, std))


def cropped(image: Image.Image, size: int, crop: tuple[int, int, int, int], *, mirror: bool) -> Planes:
    """(3, size, size) uint8: the part `crop` (left, top, right, lower), bicubic with antialiasing, maybe mirrored.

    By torch's 8-bit kernel, faster than PIL's; 4 of 1,000 values differ from PIL's, by 1 or 2 of 255.
    """
    if crop == (0, 0, size, size) and image.size == (size, size):
        planes = np.asarray(image).transpose(2, 0, 1)
    else:
        part = image.crop(crop)
        content = bytearray(part.tobytes("raw", "RGBX"))  # four bytes a pixel, as PIL keeps it: nothing is repacked
        pixels = torch.frombuffer(content, dtype=torch.uint8).view(1, part.height, part.width, 4).permute(0, 3, 1, 2)
        [planes] = torch.nn.functional.interpolate(pixels, (size, size), mode="bicubic", antialias=True).numpy()
    return np.ascontiguousarray(planes[:3, :, ::-1] if mirror else planes[:3])


def squash(image: Image.Image, size: int) -> Image.Image:
    """The whole image, bicubic, made square whatever its shape."""
    return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BICUBIC)


def crop_box(width: int, height: int, scale: Range, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, right, lower of a random crop, by the rule of torchvision's RandomResizedCrop.

    Draws a share of the area in `scale` and a shape in RATIOS; after ten that do not fit it takes the middle.
    """
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(RATIOS[0]), math.log(RATIOS[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * RATIOS[1])), min(height, round(width / RATIOS[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


@dataclass
class Eval:
    """Squash to `size` and normalise; nothing random. Every evaluation of the papers."""

    size: int

    def __post_init__(self) -> None:
        check_size(self.size)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Tensor:
        """(3, size, size) float32."""
        return to_tensor(squash(image, self.size))


@dataclass
class CentreCrop:
    """The shorter side resized to `shorter` pixels (bicubic), the middle `size` x `size` of it, normalised."""

    size: int
    shorter: int

    def __post_init__(self) -> None:
        check_size(self.size)
        if self.shorter < self.size:
            raise ValueError(f"shorter must be at least size, {self.size}, got {self.shorter}")

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Tensor:
        """(3, size, size) float32."""
        scale = self.shorter / min(image.size)
        width, height = (max(self.shorter, round(side * scale)) for side in image.size)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        return to_tensor(resized.crop((left, top, left + self.size, top + self.size)))


@dataclass
class Light:
    """Shift by up to `shift` pixels, the border repeated, and normalise: for small scenes whose captions name places.

    No flip and no crop, which would make "left of" and "in the top row" untrue.
    """

    size: int
    shift: int = 2

    def __post_init__(self) -> None:
        check_size(self.size)
        if not 0 <= self.shift < self.size:
            raise ValueError(f"shift must be in 0..{self.size - 1} pixels, got {self.shift}")

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Tensor:
        """(3, size, size) float32."""
        pixels = np.asarray(squash(image, self.size))
        down, across = rng.integers(2 * self.shift + 1, size=2)
        padded = np.pad(pixels, ((self.shift, self.shift), (self.shift, self.shift), (0, 0)), mode="edge")
        return to_tensor(Image.fromarray(padded[down : down + self.size, across : across + self.size]))


@dataclass
class Augment:
    """The papers' training transform: random resized crop (bicubic), flip, RandAugment, normalise.

    `scale`: share of the area kept, (0.5, 1) in fine-tuning and (0.2, 1) in pre-training and calibration. `flip`: the
    probability of a left-right flip; the papers flip captions' images too, although captions speak of left and right.
    `n`, `m`, `compat`: of RandAugment.
    """

    size: int
    scale: Range = (0.5, 1.0)
    flip: float = 0.5
    n: int = 2
    m: float = 7
    compat: str | None = None

    def __post_init__(self) -> None:
        check_size(self.size)
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be two shares of the area, 0 < low <= high <= 1, got {list(self.scale)}")
        check_share("flip", self.flip)
        self.scale = (self.scale[0], self.scale[1])
        self._randaugment = RandAugment(self.n, self.m, compat=self.compat)

    def least(self, size: Size) -> Size:
        """The smallest size at which an image of `size` may be decoded: no crop of it is then enlarged."""
        across = self.size / math.sqrt(
            self.scale[0] * RATIOS[0] * size[0] * size[1]
        )  # over the shortest side of a crop
        return math.ceil(size[0] * across), math.ceil(size[1] * across)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Tensor:
        """(3, size, size) float32."""
        crop = crop_box(*image.size, self.scale, rng)
        planes = cropped(image, self.size, crop, mirror=rng.random() < self.flip)
        return torch.from_numpy(normalised(self._randaugment(planes, rng)))


def check_size(size: int) -> None:
    """ValueError for less than one pixel."""
    if size < 1:
        raise ValueError(f"the size of an image must be at least 1 pixel, got {size}")


def check_share(name: str, share: float) -> None:
    """ValueError for a number outside [0, 1]."""
    if not 0 <= share <= 1:
        raise ValueError(f"{name} is a share or probability in [0, 1], got {share}")
