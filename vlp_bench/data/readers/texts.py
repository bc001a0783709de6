"""Plain text to calibrate language models on: C4's shards."""

import gzip
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO

from vlp_bench.data.readers import checked

MOST_LINE = 2**24
"""Longer lines, in characters, are refused: a small compressed file can hold any amount."""


def read_texts(path: str | Path, most: int) -> list[str]:
    """The first `most` texts of a C4 shard, `{"text": str}` a line, as .json, .jsonl or either with .gz.

    Raises:
        ValueError: no such file, not of that form, or fewer texts.
    """
    path = Path(path)
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as file:
            found = list(islice(_texts(file), most))
            while path.suffix == ".gz" and file.read(2**20):
                continue  # to the checksum, which stands at its end
    except (OSError, EOFError, zlib.error, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ValueError(f"cannot read {path}: {reason}; C4's shards are c4-train.NNNNN-of-01024.json.gz") from None
    if len(found) < most:
        raise ValueError(f"{path} has {len(found)} texts, {most} were asked for; ask for fewer or give more shards")
    return found


def _texts(file: IO[str]) -> Iterator[str]:
    number = 0
    while line := file.readline(MOST_LINE):
        text = _text(line)
        if text is None:
            raise ValueError(f'line {number} is not {{"text": ...}} with a text')
        yield text
        number += 1


def _text(line: str) -> str | None:
    try:
        found = checked.decoded(line)
    except (ValueError, RecursionError):
        return None
    text = found.get("text") if isinstance(found, dict) else None
    return text if isinstance(text, str) and text.strip() else None
