"""Bytes to tensors: decoding that refuses what it cannot trust, and the papers' transforms on PIL and torch.

Everything random in a transform comes from the generator of its sample, so that an image of an epoch looks the same
whatever the number of workers.
"""

import math
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlp_bench.data.augment import COLOUR_OPERATIONS, RandAugment

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
RATIOS = (3 / 4, 4 / 3)
"""Width to height of a random crop."""
Range = tuple[float, float]
MOST_PIXELS = 2**27
"""Larger images are refused: a small file can claim any size and fill the memory when it is decoded."""

_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


def decode(path: Path) -> Image.Image:
    """The image in a file, RGB.

    Raises:
        ValueError: the file is absent, no image, damaged, or has more than MOST_PIXELS pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata and of size, which is checked here
            with Image.open(path) as image:
                if math.prod(image.size) > MOST_PIXELS:
                    raise ValueError(f"{image.size[0]} x {image.size[1]} pixels, at most {MOST_PIXELS} are decoded")
                return image.convert("RGB")
    except FileNotFoundError:
        raise ValueError(f"there is no image {path}: is the data complete, and paths.data right?") from None
    except _UNREADABLE as error:
        raise ValueError(f"cannot read the image {path}: {error}; replace the file or drop its records") from None


def inside(key: str) -> PurePosixPath:
    """A key as a path that stays below whatever folder it is joined to.

    Raises:
        ValueError: the key is empty, absolute, climbs with "..", or holds a character no path of ours has.
    """
    path = PurePosixPath(key)
    if not path.parts or path.is_absolute() or ".." in path.parts or any(c in key for c in "\\\0:"):
        raise ValueError(f"{key!r} is not a path below the image folder (relative, without '..', ':' and '\\\\')")
    return path


class Folder:
    """Images below one folder, by relative path. Links the owner of the folder put into it are followed.

    Raises:
        ValueError: there is no such folder.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise ValueError(f"there is no image folder {self.root}: give the folder the annotations' paths start from")

    def open(self, key: str) -> Image.Image:
        """The RGB image of a key; ValueError if the key leaves the folder or its file cannot be decoded."""
        return decode(self.root / inside(key))

    def size(self, key: str) -> tuple[int, int]:
        """(width, height) in pixels, read from the header alone; ValueError as `open`."""
        path = self.root / inside(key)
        try:
            with Image.open(path) as image:
                return image.size
        except _UNREADABLE as error:
            raise ValueError(f"cannot read the image {path}: {error}; replace the file or drop its records") from None


def to_tensor(image: Image.Image, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> Tensor:
    """(3, h, w) float32, (value / 255 - mean) / std for every channel."""
    pixels = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1) / 255
    return ((pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]).contiguous()


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
        _check_size(self.size)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Tensor:
        """(3, size, size) float32."""
        return to_tensor(squash(image, self.size))


@dataclass
class Light:
    """Shift by up to `shift` pixels, the border repeated, and normalise: for small scenes whose captions name places.

    No flip and no crop, which would make "left of" and "in the top row" untrue.
    """

    size: int
    shift: int = 2

    def __post_init__(self) -> None:
        _check_size(self.size)
        if not 0 <= self.shift < self.size:
            raise ValueError(f"shift must be in 0..{self.size - 1} pixels, got {self.shift}")

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Tensor:
        """(3, size, size) float32."""
        pixels = np.asarray(squash(image, self.size))
        down, across = rng.integers(2 * self.shift + 1, size=2)
        padded = np.pad(pixels, ((self.shift, self.shift), (self.shift, self.shift), (0, 0)), mode="edge")
        return to_tensor(Image.fromarray(padded[down : down + self.size, across : across + self.size]))


@dataclass
class Recolour:
    """Squash to `size`, the operations of RandAugment that leave pixels where they are, normalise: for boxes."""

    size: int
    n: int = 2
    m: float = 7

    def __post_init__(self) -> None:
        _check_size(self.size)
        self._randaugment = RandAugment(self.n, self.m, COLOUR_OPERATIONS)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Tensor:
        """(3, size, size) float32."""
        return to_tensor(self._randaugment(squash(image, self.size), rng))


@dataclass
class Augment:
    """The papers' training transform: random resized crop (bicubic), flip, RandAugment, normalise.

    `scale`: share of the area kept, (0.5, 1) in fine-tuning and (0.2, 1) in pre-training and calibration. `flip`: the
    probability of a left-right flip; the papers flip captions' images too, although captions speak of left and right.
    """

    size: int
    scale: Range = (0.5, 1.0)
    flip: float = 0.5
    n: int = 2
    m: float = 7

    def __post_init__(self) -> None:
        _check_size(self.size)
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be two shares of the area, 0 < low <= high <= 1, got {list(self.scale)}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip is a probability in [0, 1], got {self.flip}")
        self.scale = (self.scale[0], self.scale[1])
        self._randaugment = RandAugment(self.n, self.m)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Tensor:
        """(3, size, size) float32."""
        image = image.crop(crop_box(*image.size, self.scale, rng))
        image = image.resize((self.size, self.size), Image.Resampling.BICUBIC)
        if rng.random() < self.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return to_tensor(self._randaugment(image, rng))


def _check_size(size: int) -> None:
    if size < 1:
        raise ValueError(f"the size of an image must be at least 1 pixel, got {size}")
