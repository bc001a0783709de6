"""Images per second and core: our training loader against the operations of the released one, and the decoded cache.

    python benchmarks/loader.py [--images 48] [--rounds 5]

The released operations (decode, crop, bicubic resize by PIL, flip, RandAugment on arrays, to float, normalise) are
written out here; where OpenCV is installed they use it, as released, else PIL, which is slower. Photographs are noise
over smooth colours, about as large as COCO's files. Goals: 1.5 times the images per second at 384 px, 20 times from
the decoded cache at 224.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from support.measure import interleaved, ratio
from torch import Tensor

from vlp_bench.data.cache import cached
from vlp_bench.data.items import CaptionDataset
from vlp_bench.data.records import CaptionedImage
from vlp_bench.data.transforms import augment
from vlp_bench.data.transforms.decoding import Folder
from vlp_bench.data.transforms.images import MEAN, STD, Augment, crop_box

cv2: Any = import_module("cv2") if find_spec("cv2") else None

GOAL, CACHE_GOAL = 1.5, 20.0
SIZES = {"COCO's, 640 x 480": (640, 480), "large, 1600 x 1200": (1600, 1200)}
Operation = Callable[[np.ndarray, float], np.ndarray]


def photographs(folder: Path, n: int, size: tuple[int, int]) -> list[CaptionedImage]:
    rng = np.random.default_rng(0)
    for i in range(n):
        coarse = rng.integers(0, 256, (size[1] // 16, size[0] // 16, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
        noisy = (smooth + rng.normal(0, 8, (*smooth.shape[:2], 1))).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{i}.jpg", quality=90)
    return [CaptionedImage(f"{i}.jpg", ("a photograph",), str(i)) for i in range(n)]


# The released operations


def warp(array: np.ndarray, matrix: list[list[float]]) -> np.ndarray:
    height, width = array.shape[:2]
    return cv2.warpAffine(
        array, np.array(matrix, np.float32), (width, height), borderValue=augment.FILL, flags=cv2.INTER_LINEAR
    )


def equalized(array: np.ndarray, _: float) -> np.ndarray:
    return np.stack([cv2.equalizeHist(np.ascontiguousarray(array[..., c])) for c in range(3)], axis=-1)


def stretched(array: np.ndarray, _: float) -> np.ndarray:
    return np.asarray(ImageOps.autocontrast(Image.fromarray(array)))


def brighter(array: np.ndarray, strength: float) -> np.ndarray:
    table = (np.arange(256, dtype=np.float32) * (abs(strength) * 1.8 + 0.1)).clip(0, 255).astype(np.uint8)
    return table[array]


def sharper(array: np.ndarray, strength: float) -> np.ndarray:
    kernel = np.ones((3, 3), np.float32)
    kernel[1, 1] = 5
    soft = cv2.filter2D(array, -1, kernel / 13).astype(np.float32)
    return (soft + (abs(strength) * 1.8 + 0.1) * (array.astype(np.float32) - soft)).clip(0, 255).astype(np.uint8)


def rotated(array: np.ndarray, strength: float) -> np.ndarray:
    height, width = array.shape[:2]
    return warp(array, cv2.getRotationMatrix2D((width / 2, height / 2), 30 * strength, 1).tolist())


def by_opencv() -> list[Operation]:
    return [
        lambda a, s: a,
        stretched,
        equalized,
        brighter,
        sharper,
        lambda a, s: warp(a, [[1, 0.3 * s, 0], [0, 1, 0]]),
        lambda a, s: warp(a, [[1, 0, 0], [0.3 * s, 1, 0]]),
        lambda a, s: warp(a, [[1, 0, -10 * s], [0, 1, 0]]),
        lambda a, s: warp(a, [[1, 0, 0], [0, 1, -10 * s]]),
        rotated,
    ]


def by_pil() -> list[Operation]:
    def on_array(operation: augment.Operation, array: np.ndarray, strength: float) -> np.ndarray:
        return operation(np.ascontiguousarray(array.transpose(2, 0, 1)), strength).transpose(1, 2, 0)

    return [partial(on_array, operation) for operation in augment.OPERATIONS]


def released(file: Path, size: int, operations: list[Operation], rng: np.random.Generator) -> Tensor:
    """One image as the released training transform makes it."""
    image = Image.open(file).convert("RGB")
    image = image.crop(crop_box(*image.size, (0.5, 1.0), rng)).resize((size, size), Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    array = np.array(image)
    for which in rng.integers(len(operations), size=2):
        if rng.random() < 0.5:
            array = operations[which](array, 0.7 if rng.random() < 0.5 else -0.7)
    tensor = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1))).float().div(255)
    return tensor.clone().sub_(torch.tensor(MEAN)[:, None, None]).div_(torch.tensor(STD)[:, None, None])


def compare(name: str, size: tuple[int, int], n: int, rounds: int) -> None:
    operations = by_opencv() if cv2 is not None else by_pil()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        records = photographs(folder, n, size)
        ours = CaptionDataset(records, Folder(folder), Augment(384), seed=0)
        kilobytes = sum(file.stat().st_size for file in folder.iterdir()) / n / 1000

        def theirs() -> None:
            for i in range(n):
                released(folder / f"{i}.jpg", 384, operations, np.random.default_rng(i))

        def own() -> None:
            for i in range(n):
                ours[i]

        found = interleaved({"released": theirs, "ours": own}, rounds)
        print(f"{name} ({kilobytes:.0f} KB a file), 384 px")
        for which, spent in found.items():
            print(f"  {which:9s} {n / median(spent):7.1f} images a second and core")
        print(f"  ratio {ratio(found['released'], found['ours']):.2f}  (goal {GOAL})")
        if size == SIZES["COCO's, 640 x 480"]:
            _cache(records, folder, n, rounds)


def _cache(records: list[CaptionedImage], folder: Path, n: int, rounds: int) -> None:
    plain = CaptionDataset(records, Folder(folder), Augment(224, scale=(0.2, 1.0)), seed=0)
    kept = cached(plain, range(n), folder / "cache")
    found = interleaved(
        {"decoded": lambda: [plain[i] for i in range(n)], "cached": lambda: [kept[i] for i in range(n)]}, rounds
    )
    print("calibration, 224 px")
    for which, spent in found.items():
        print(f"  {which:9s} {n / median(spent):7.1f} images a second and core")
    print(f"  ratio {ratio(found['decoded'], found['cached']):.1f}  (goal {CACHE_GOAL:.0f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if cv2 is not None:
        cv2.setNumThreads(1)
    print(f"one thread; the released RandAugment runs on {'OpenCV, as released' if cv2 is not None else 'PIL'}")
    for name, size in SIZES.items():
        compare(name, size, args.images, args.rounds)


if __name__ == "__main__":
    main()
