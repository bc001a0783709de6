"""Which split a file or folder is of, by whole words of its name: no "val" in "retrieval", no "test" in "latest"."""

import re
from pathlib import Path

NAMES = {
    "train": ("train", "training", "trainset"),
    "val": ("val", "valid", "validation", "dev", "valset", "devset"),
    "test": ("test", "testing", "testdev", "testset"),
}
"""Our splits -> what their files or folders have in their name."""
_WORD = re.compile("[A-Z]?[a-z]+|[A-Z]+")


def words(name: str) -> list[str]:
    """The words of a name in lower case: "valCaptions2014-test_dev" -> val, captions, testdev."""
    found = " ".join(word.lower() for word in _WORD.findall(name))
    return re.sub(r"\btest dev\b", "testdev", found).split()


def is_of(name: str, split: str) -> bool:
    """Whether a name has a word of a split."""
    return any(word in NAMES.get(split, (split,)) for word in words(name))


def of_another(name: str, split: str) -> bool:
    """Whether a name has a word of other splits alone."""
    return not is_of(name, split) and any(is_of(name, other) for other in NAMES)


def split_folders(root: Path, split: str) -> list[Path]:
    """The folders of a split below `root`, which are called by one word of it and nothing else."""
    called = NAMES.get(split, (split,))
    return sorted(folder for folder in root.iterdir() if folder.name.lower() in called and folder.is_dir())
