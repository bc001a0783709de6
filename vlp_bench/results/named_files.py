"""The files that a stored configuration names: whoever wrote a row must not choose which of the reader's are opened.

What lies below the working folder, the folder of the results, or a folder that the reader's own command line names may
be read; a file of this package too; a repository of the hub only from the local cache. Nothing is fetched.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vlp_bench.annotations import told
from vlp_bench.construct import check_names
from vlp_bench.models.checkpoints.locations import HUB, PACKAGED, cached, located

ROOMS = ("vlp_bench.data.", "vlp_bench.models.")
"""What a stored model and its data are made of."""
OWN_PACKAGE = f"{PACKAGED}vlp_bench/"


def roots(out: Path | str, files: str = "") -> list[Path]:
    """The folders whose files a row under `out` may name; `files` are more of them, with commas between."""
    return [Path.cwd(), Path(out), *(Path(word) for word in files.split(",") if word)]


def confined(description: Any, folders: Iterable[Path], where: str, cure: str) -> Any:
    """The description, if every file that it names may be read; a cached repository of the hub as its folder.

    Args:
        where: its key.
        cure: how the reader allows it, the end of the message.

    Raises:
        ValueError: the first key that names a file elsewhere, a repository that is not in the local cache, or a class
            that is no part of a model or of data (loggers make folders and connections).
    """
    check_names(description, where, within=ROOMS)
    allowed = [folder.resolve() for folder in folders]
    return _confined(description, allowed, where, cure)


def _confined(value: Any, allowed: list[Path], where: str, cure: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _confined(entry, allowed, f"{where}.{key}", cure) for key, entry in value.items()}
    if isinstance(value, list):
        return [_confined(entry, allowed, f"{where}.{number}", cure) for number, entry in enumerate(value)]
    return _file(value, allowed, where, cure) if isinstance(value, str) else value


def _file(text: str, allowed: list[Path], where: str, cure: str) -> str:
    """A text as it is, unless it is a path that leads out."""
    if text.startswith(OWN_PACKAGE):
        located(text)  # which leads nowhere else
        return text
    if text.startswith(HUB):
        found = cached(text)
        if found is None:
            raise ValueError(f"{where}={told(text)}: a row names it, and it is not in the local hub cache; {cure}")
        return str(found)
    if not text.startswith(PACKAGED) and "\0" not in text:
        place = Path(text).resolve()
        if any(place.is_relative_to(folder) for folder in allowed):
            return text
    raise ValueError(f"{where}={told(text)}: a row names a file outside the working folder and the results; {cure}")
