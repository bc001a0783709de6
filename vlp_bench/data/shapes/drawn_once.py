"""Records of the embedded world, drawn once a machine: kept in the user's cache folder, by all that decides them.

A gallery takes seconds to draw and is the same in every run. VLP_BENCH_CACHE names another folder; empty, nothing is
kept. What is read back is held to its hash; what is broken, or was drawn by other code, is drawn again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import astuple
from functools import cache, wraps
from pathlib import Path
from typing import Any

import numpy as np

from vlp_bench.data.records import CaptionedImage, ImagePair, LabelledImage, Question, RegionCaption, RegionImage

_log = logging.getLogger(__name__)
KINDS = {kind.__name__: kind for kind in (CaptionedImage, RegionImage, Question, ImagePair, LabelledImage)}
Draw = Callable[..., tuple[Any, ...]]


def drawn_once(draw: Draw) -> Draw:
    """The function of plain arguments that draws records, called once a process at most, and once a machine."""

    @cache
    @wraps(draw)
    def drawn(*where: Any) -> tuple[Any, ...]:
        folder = cache_folder()
        if folder is None or not Path(__file__).is_file():  # an archive, whose code cannot be told apart
            return draw(*where)
        file = folder / "world" / _name(draw, where)
        found = _read(file)
        if found is None:
            found = draw(*where)
            _write(file, found)
        return found

    return drawn


def cache_folder() -> Path | None:
    """VLP_BENCH_CACHE, or `vlp_bench` in XDG_CACHE_HOME or ~/.cache; None where nothing is to be kept."""
    asked, home = os.environ.get("VLP_BENCH_CACHE"), os.environ.get("XDG_CACHE_HOME", "")
    try:
        if asked is not None:
            return Path(asked).expanduser() if asked else None
        return (Path(home) if Path(home).is_absolute() else Path.home() / ".cache") / "vlp_bench"
    except RuntimeError:  # nobody's home
        return None


def _name(draw: Draw, where: Sequence[Any]) -> str:
    essence = [_sources(draw.__code__.co_filename), np.__version__, draw.__module__, *where]
    digest = hashlib.sha256(repr(essence).encode()).hexdigest()[:16]
    return "-".join([draw.__module__.rpartition(".")[2], *map(str, where), f"{digest}.json"])


@cache
def _sources(file: str) -> str:
    """Hash of the code that draws: this package, the records, and the function's own file."""
    here = Path(__file__).parent
    total = hashlib.sha256()
    for source in (*sorted(here.glob("*.py")), here.parent / "records.py", Path(file)):
        total.update(source.read_bytes())
    return total.hexdigest()


def _read(file: Path) -> tuple[Any, ...] | None:
    """None: not there, or not as it was written."""
    try:
        digest, _, text = file.read_text(encoding="utf-8").partition("\n")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        _log.warning("%s cannot be read (%s): it is drawn again", file, error)
        return None
    if digest != _hash(text):
        _log.warning("%s is broken: it is drawn again", file)
        return None
    kind, listed = json.loads(text)
    return tuple(_record(kind, values) for values in listed)


def _write(file: Path, records: Sequence[Any]) -> None:
    """Whole or not at all; where the folder refuses, the next process draws again."""
    text = json.dumps([type(records[0]).__name__, [astuple(record) for record in records]])
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent, prefix="unfinished-") as making:
            whole = Path(making) / file.name
            whole.write_text(f"{_hash(text)}\n{text}", encoding="utf-8")
            os.replace(whole, file)
    except OSError as error:
        _log.info("%s cannot be kept: %s", file, error)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _record(kind: str, values: Sequence[Any]) -> Any:
    if kind == "RegionImage":
        image, regions, size = values
        return RegionImage(image, tuple(RegionCaption(said, _tuple(box)) for said, box in regions), _tuple(size))
    return KINDS[kind](*map(_tuple, values))


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
