"""Calibration images decoded once: the second pass, and every later run with the same settings, only reads pixels.

Calibration shows the same crops at every pass, so what is kept is the transformed image, 8 bits a value: 150 KB each at
224 pixels, 29 GB for the paper's 192,000. The batches are bit for bit those without a cache.
"""

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from vlp_bench.data.items import Item
from vlp_bench.data.transforms.images import MEAN, STD, normalised
from vlp_bench.lifetime import begin_loader

PIXELS, ITEMS = "images.u8", "items.json"


class CachedItems(Dataset[Item]):
    """Items read from a folder that `cached` wrote.

    Raises:
        ValueError: the folder is not whole.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            about = json.loads((folder / ITEMS).read_text(encoding="utf-8"))
            self.shape, self.items = tuple(about["shape"]), about["items"]
            whole = (folder / PIXELS).stat().st_size == len(self.items) * int(np.prod(self.shape))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"the cache {folder} cannot be read ({error}); delete it, it is made again") from None
        if not whole:
            raise ValueError(f"the cache {folder} is not whole; delete it, it is made again")
        self._pixels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> Item:
        if self._pixels is None:  # mapped in the process that reads
            mapped = np.memmap(self.folder / PIXELS, np.uint8, "r", shape=(len(self), *self.shape))
            self._pixels = mapped.view(np.ndarray)  # views of it cost a tenth
        item = self.items[place]
        boxes = tuple((x, y, w, h) for x, y, w, h in item["boxes"])
        image = torch.from_numpy(normalised(self._pixels[place]))
        return Item(image, tuple(item["captions"]), item["idx"], item["draw"], boxes)


def cached(dataset: Dataset[Item], places: Sequence[int], folder: Path, *, num_workers: int = 0) -> CachedItems:
    """Items number `places` of a data set, from `folder`; they are decoded into it if it is not there.

    Raises:
        ValueError: the folder is there but not whole, or the transform's images are not 8-bit values, normalised.
    """
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="unfinished-") as making:
            _write(dataset, places, Path(making) / "whole", num_workers)
            _move(Path(making) / "whole", folder)
    return CachedItems(folder)


def _move(made: Path, folder: Path) -> None:
    try:
        os.rename(made, folder)
    except OSError:
        if not folder.exists():  # else another process was quicker, with the same images
            raise


def _write(dataset: Dataset[Item], places: Sequence[int], folder: Path, num_workers: int) -> None:
    folder.mkdir()
    listed: list[dict[str, Any]] = []
    shape: tuple[int, ...] = ()
    loader = DataLoader(
        Subset(dataset, places), None, num_workers=num_workers, generator=torch.Generator().manual_seed(0),
        worker_init_fn=begin_loader,
    )  # fmt: skip
    with open(folder / PIXELS, "wb") as file:
        for item in loader:
            shape = shape or tuple(item.image.shape)
            file.write(_bytes(item.image, shape))
            listed.append({name: value for name, value in asdict(item).items() if name != "image"})
    (folder / ITEMS).write_text(json.dumps({"shape": shape, "items": listed}), encoding="utf-8")


def _bytes(image: Tensor, shape: tuple[int, ...]) -> bytes:
    """A normalised (3, h, w) image as 8-bit values, from which it comes out again exactly."""
    shift, scale = (torch.tensor(of)[:, None, None] for of in (MEAN, STD))
    values = ((image * scale + shift) * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    if tuple(image.shape) != shape or not np.array_equal(normalised(values), image.numpy()):
        raise ValueError(
            "data.calibration_cache: this transform's images are not 8-bit values normalised; set it to null"
        )
    return values.tobytes()
