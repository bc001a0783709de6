"""Which files of a folder are images: by their names' ends, at any depth, without what systems hide there."""

import os
from pathlib import Path

SUFFIXES = (".jpeg", ".jpg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".ppm", ".tif", ".tiff")


def hidden(name: str) -> bool:
    """Whether it is what a system or program keeps for itself: .ipynb_checkpoints, ._cat.jpg, __MACOSX."""
    return name.startswith(".") or name == "__MACOSX"


def is_image(name: str) -> bool:
    """Whether a file's name is an image's."""
    return not hidden(name) and name.lower().endswith(SUFFIXES)


def folders_in(root: Path) -> list[Path]:
    """The folders of a folder that are not hidden, by name."""
    return sorted(folder for folder in root.iterdir() if folder.is_dir() and not hidden(folder.name))


def images_below(root: Path) -> list[Path]:
    """All images below a folder, by path. Links to folders are followed, but not in a circle."""
    found: list[Path] = []
    for place, folders, files in os.walk(root, followlinks=True):
        here = Path(place)
        above = [os.path.realpath(root / parent) for parent in here.relative_to(root).parents]
        if os.path.realpath(here) in above:
            folders.clear()
            continue
        folders[:] = [name for name in folders if not hidden(name)]
        found += [here / name for name in files if is_image(name)]
    return sorted(found)
