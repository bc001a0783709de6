"""A pruned model as a folder: what `save_pretrained` writes, its mask, its card; whole or not at all."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vlp_bench.data.readers.checked import load
from vlp_bench.models.checkpoints.hub import weight_files
from vlp_bench.models.checkpoints.pretrained import CARD, MASK, WEIGHTS, save_pretrained
from vlp_bench.models.offloading import Offloaded, StoredWeights
from vlp_bench.pruning.solution import Solution, Solved
from vlp_bench.results.card import model_card
from vlp_bench.runs.lock import LOCK, exclusive, owner
from vlp_bench.runs.terminal.errors import UserError

SPELLED = ("*.json", "*.txt", "*.model", "*.jinja", "*.spm", "*.codes", "*.tokenizer", "*.tiktoken")
"""Files of tokenizers (Marian's are called .spm, BERTweet's .codes) and processors."""
BESIDE = (
    *(*SPELLED, "additional_chat_templates/*.jinja"),
    *(f"*_tokenizer/{files}" for files in SPELLED),
    *("[0-9]_*/*.json", "[0-9]_*/*.safetensors"),
)
"""Those, a processor's further tokenizers (InstructBLIP's qformer_tokenizer), and sentence-transformers' modules."""
CONFIGURATION = ("config.json", "generation_config.json")
INDEX = "model.safetensors.index.json"
FORMAT = {"format": "pt"}
NOT_BESIDE = (*CONFIGURATION, "*.safetensors.index.json", "pytorch_model*", "all_results.json")


def check_place(folder: Path) -> None:
    """UserError where `whole` can't write a folder: it is said before anything is pruned, not after."""
    place = folder.resolve()
    nearest = next(own for own in place.parents if own.exists())
    if not nearest.is_dir():
        raise UserError(f"out={folder}: {nearest} is a file: choose another folder")
    if place.is_mount():
        raise UserError(f"out={folder} is a mount point, which can't be replaced: give a folder below it")
    try:
        Path(tempfile.mkdtemp(dir=nearest, prefix=f".{place.name}.")).rmdir()
    except OSError as error:
        raise UserError(f"out={folder} can't be written ({nearest}: {error.strerror}): choose another") from error


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that takes its place, and that of what was there, when all inside has gone well.

    A link to a folder stays one: what it leads to is replaced. What a killed process has left of such a folder is
    removed first.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in _left_beside(folder):
        shutil.rmtree(left, ignore_errors=True)
    meanwhile = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        with _at_work_in(meanwhile):
            yield meanwhile
            (meanwhile / LOCK).unlink(missing_ok=True)
            meanwhile.chmod(0o777 & ~_umask())
            if folder.exists():
                _put_away(folder)
            meanwhile.rename(folder)
    finally:
        shutil.rmtree(meanwhile, ignore_errors=True)


@contextmanager
def _at_work_in(folder: Path) -> Iterator[None]:
    """Hold a folder, where its file system has locks."""
    with ExitStack() as held:
        with suppress(OSError):
            held.enter_context(exclusive(folder))
        yield


def _left_beside(folder: Path) -> list[Path]:
    """What `whole` began for a folder and nobody is at work in any more."""
    name = re.compile(rf"\.{re.escape(folder.name)}\.\w{{8}}")
    return [path for path in folder.parent.iterdir() if name.fullmatch(path.name) and _is_left(path)]


def _is_left(path: Path) -> bool:
    """Whether a process was at work in a folder and has not ended as it should."""
    with suppress(OSError):  # of a file system without locks, or a folder of somebody else's
        return not path.is_symlink() and (path / LOCK).is_file() and owner(path) is None
    return False


def _umask() -> int:
    import os

    mask = os.umask(0)
    os.umask(mask)
    return mask


def _put_away(folder: Path) -> None:
    shutil.rmtree(folder) if folder.is_dir() else folder.unlink()


def beside(source: Path) -> list[Path]:
    """The files of tokenizers and processors, those in folders of their own too, by their names from `source` on."""
    names = {file.relative_to(source) for pattern in BESIDE for file in source.glob(pattern)}
    return sorted(name for name in names if not any(fnmatchcase(str(name), other) for other in NOT_BESIDE))


def copy_beside(source: Path, folder: Path) -> None:
    """Copies the files of `beside`."""
    for name in beside(source):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, folder / name)


def write(
    model: nn.Module, source: Path, folder: Path, solution: Solution, name: str, provenance: Mapping[str, Any]
) -> None:
    """A model whose removed weights are zero, with all that lay beside it.

    Args:
        model: the pruned one.
        source: the folder it came from.
        folder: an empty one.
        solution: what was installed.
        name: for the card.
        provenance: for the card, JSON.
    """
    copy_beside(source, folder)
    save_pretrained(model, folder, model_card(name, solution, None, provenance, library="transformers"))
    solution.save(folder / MASK)


def restore_types(folder: Path, source: Path) -> None:
    """Give what pruning has not changed the type that it is stored in: float32 for norms of a model in bfloat16."""
    written, stored = StoredWeights(folder), StoredWeights(source)
    common = [name for name in written if name in stored and written.shapes[name] == stored.shapes[name]]
    other = [name for name in common if written.types[name] != stored.types[name]]
    for path in {written.files[name] for name in other}:
        tensors = {name: written[name] for name, file in written.files.items() if file == path}
        save_file(tensors | {n: _restored(tensors[n], stored[n]) for n in other if n in tensors}, path, FORMAT)
    if other:
        _recount(folder)


def _restored(written: Tensor, stored: Tensor) -> Tensor:
    """The stored numbers where they are the written ones; a zero stays one."""
    same = (stored.to(written.dtype) == written) & (written != 0)
    return torch.where(same, stored, written.to(stored.dtype))


def _recount(folder: Path) -> None:
    """Have an index say how many bytes its tensors take."""
    index = folder / INDEX
    if index.is_file():
        content = load(index)
        size = sum(map(_bytes_of_tensors, weight_files(folder)))
        content["metadata"] = content.get("metadata", {}) | {"total_size": size}
        index.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _bytes_of_tensors(path: Path) -> int:
    """What follows the header of a .safetensors file, whose length is its first eight bytes."""
    with path.open("rb") as file:
        return path.stat().st_size - 8 - int.from_bytes(file.read(8), "little")


def write_stored(
    own: Offloaded,
    source: Path,
    folder: Path,
    solution: Solution,
    name: str,
    provenance: Mapping[str, Any],
    dtype: torch.dtype | None = None,
) -> None:
    """As `write`, of an offloaded model: its files are copied one by one, with removed weights zero.

    Args: as those of `write`, `own` in place of the model; `dtype`: of all that is written, None: as stored.
    """
    copy_beside(source, folder)
    files = weight_files(source)
    index = (INDEX,) if files != [source / WEIGHTS] else ()
    for file in (*CONFIGURATION, *index):
        if (source / file).is_file():
            shutil.copyfile(source / file, folder / file)
    names = {own.names[name]: name for name in solution.masks}
    for path in files:
        with safe_open(path, "pt") as file:
            tensors = {key: _pruned(file.get_tensor(key), solution, names.get(key)) for key in file.keys()}  # noqa: SIM118
        cast = {key: t.to(dtype) if t.is_floating_point() else t for key, t in tensors.items()}
        save_file(cast, folder / path.name, FORMAT)
    if dtype is not None:
        _name_type(folder / "config.json", dtype)
        _recount(folder)
    (folder / CARD).write_text(model_card(name, solution, None, provenance, library="transformers"), encoding="utf-8")
    solution.save(folder / MASK)


def _name_type(config: Path, dtype: torch.dtype) -> None:
    content = {key: value for key, value in load(config, infinite=True).items() if key != "torch_dtype"}
    said = json.dumps(content | {"dtype": str(dtype).removeprefix("torch.")}, indent=2)
    config.write_text(said + "\n", encoding="utf-8")


def _pruned(tensor: Tensor, solution: Solution, name: str | None) -> Tensor:
    if name is None:
        return tensor
    Solved({name: solution.masks[name]}, {n: w for n, w in solution.weights.items() if n == name}).install(
        {name: tensor}
    )
    return tensor
