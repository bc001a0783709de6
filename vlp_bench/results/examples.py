"""What a run did with each test example: one small file beside its rows, for tests between runs and for galleries.

`examples.npz` holds plain arrays by name, read without pickle. The first axis counts examples. Two forms are known:

* `<query>_rank`: rank of the best right answer, from 0. The metric `<query>_r<k>` of an example is 100 below k.
* `<metric>`: the example's own value; the metric is its mean (VQA's accuracy of a question, CIDEr of an image).

Everything else is for galleries (`txt_first`: the text put first for an image; `text_image`: the image of a text).
"""

import io
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from tokenize import TokenError
from zipfile import BadZipFile

import numpy as np
from torch import Tensor

from vlp_bench.pruning.masks.safetensors_files import BROKEN, first_line, write_whole

FILE = "examples.npz"
NAMES = "names"  # of all arrays, so that one that is gone is noticed; older files lack it
LARGEST = 1 << 28  # bytes: some hundred values of a quarter of a million examples
Arrays = dict[str, np.ndarray]


def write(folder: Path, examples: Mapping[str, Tensor | np.ndarray]) -> Path | None:
    """Write the file of a run, whole or not at all; None, and no file, where the task kept no examples."""
    if not examples:
        return None
    content = io.BytesIO()
    arrays = {name: np.asarray(values) for name, values in examples.items()}
    np.savez_compressed(content, allow_pickle=False, **{NAMES: np.array(sorted(arrays))}, **arrays)
    return write_whole(folder / FILE, content.getvalue())


def read(folder: Path) -> Arrays:
    """The arrays of a run; empty if it stored none.

    Raises:
        ValueError: the file is broken or holds objects; the message names it.
    """
    file = folder / FILE
    if not file.is_file():
        return {}
    try:
        with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as content:
            if sum(member.file_size for member in content.zip.infolist()) > LARGEST:
                raise ValueError(f"it unpacks to more than {LARGEST >> 20} MiB")
            return _whole({name: content[name] for name in content.files}, content.files)
    except (*BROKEN, OSError, BadZipFile, EOFError, MemoryError, struct.error, TokenError) as error:
        reason = first_line(error)
        raise ValueError(f"{file} cannot be read ({reason}); compute the run again with force=true") from error


def _whole(arrays: Arrays, stored: Sequence[str]) -> Arrays:
    """The arrays; ValueError if one is stored twice, or is not there."""
    if len({*stored}) < len(stored):
        raise ValueError("it stores an array twice")
    told = arrays.pop(NAMES, None)
    if not arrays or (told is not None and told.tolist() != sorted(arrays)):
        raise ValueError(f"it should hold {'arrays' if told is None else ', '.join(map(str, told))}")
    return arrays


def values(arrays: Arrays, metric: str) -> np.ndarray | None:
    """(examples,) float64 whose mean is the metric in percent (or in its own unit); None if it cannot be had."""
    found = re.fullmatch(r"(.+)_r(\d+)", metric)
    if found and f"{found[1]}_rank" in arrays:
        return 100.0 * (arrays[f"{found[1]}_rank"] < int(found[2]))
    return arrays[metric].astype(np.float64) if metric in arrays else None


def clusters(arrays: Arrays, metric: str) -> np.ndarray | None:
    """(examples,) the image each example belongs to where several share one (image retrieval: five texts an image)."""
    return arrays.get("text_image") if metric.startswith("img_r") else arrays.get("cluster")
