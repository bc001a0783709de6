"""Examples on which two runs part ways, with their images, as data that a page can show without a server."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from vlp_bench.data.records import CaptionedImage
from vlp_bench.results.examples import Arrays

SIDE = 144  # pixels of a picture's longer side on the page


class Pictures(Protocol):
    """Opens the images of a data set by their keys."""

    def open(self, key: str) -> Image.Image: ...


@dataclass(frozen=True)
class Exhibit:
    """An image, the caption that each of two runs puts first for it, and one that is true."""

    picture: str  # data URI
    right: str
    first: str
    second: str


def apart(first: Arrays, second: Arrays, count: int) -> np.ndarray:
    """Images whose text is found at rank 1 by the first run and not by the second, the worst miss first.

    Equal misses keep the order of the data set, so that a gallery does not change from one report to the next.
    """
    lost = np.flatnonzero((first["txt_rank"] == 0) & (second["txt_rank"] > 0))
    return lost[np.argsort(-second["txt_rank"][lost].astype(float), kind="stable")][:count]


def exhibits(
    records: Sequence[CaptionedImage], pictures: Pictures, first: Arrays, second: Arrays, *, count: int
) -> list[Exhibit]:
    """Up to `count` images that `first` answers rightly and `second` does not.

    Raises:
        ValueError: the records are not those of the runs.
    """
    texts = [caption for record in records for caption in record.captions]
    for run in (first, second):
        if len(run["txt_rank"]) != len(records) or len(run["text_image"]) != len(texts):
            raise ValueError(f"the runs saw {len(run['txt_rank'])} images, the data set has {len(records)}")
    found = []
    for i in apart(first, second, count):
        record = records[int(i)]
        chosen = [texts[int(run["txt_first"][i])] for run in (first, second)]
        found.append(Exhibit(data_uri(pictures.open(record.image)), record.captions[0], *chosen))
    return found


def data_uri(image: Image.Image) -> str:
    """The image as a PNG (drawn scenes) or JPEG (photographs) inside an address, at most SIDE pixels wide and high."""
    small = image.convert("RGB")
    few = small.getcolors(4096) is not None
    small.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "PNG" if few else "JPEG")
    kind = "png" if few else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
