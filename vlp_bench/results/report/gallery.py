"""Examples on which two runs part ways, with their images, as data that a page can show without a server."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vlp_bench.results.report.answers import Answers, Examples

SIDE = 144  # pixels of a picture's longer side on the page


@dataclass(frozen=True)
class Exhibit:
    """An image, what each of two runs says to it, what is right and, where there is one, the question."""

    picture: str  # data URI
    right: str
    first: str
    second: str
    asked: str = ""


def apart(first: Answers, second: Answers, count: int) -> np.ndarray:
    """Examples that the first run has right and the second has not, the worst miss first.

    Where nothing is right or wrong: those it has better. Equal misses keep the order of the data set, so that a gallery
    does not change from one report to the next.
    """
    lead = first.value - second.value
    lost = lead > 0
    if first.least is not None:
        lost = (first.value >= first.least) & (second.value < first.least)
    places = np.flatnonzero(lost)
    return places[np.argsort(-lead[places], kind="stable")][:count]


def exhibits(examples: Examples, first: Answers, second: Answers, *, count: int) -> list[Exhibit]:
    """Up to `count` examples that `first` answers rightly and `second` does not."""
    found = []
    for i in map(int, apart(first, second, count)):
        picture = data_uri(examples.pictures.open(examples.images[i]))
        found.append(Exhibit(picture, examples.right[i], first.said[i], second.said[i], examples.asked[i]))
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
