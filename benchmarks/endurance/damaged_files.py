"""Damaged files, thousands: what is read of them is exactly what the whole file says, or something is said.

    python -m benchmarks.endurance.damaged_files                      # 40 damages of each of some 60 kinds of files
    python -m benchmarks.endurance.damaged_files --each 200 --seed 5
    python -m benchmarks.endurance.damaged_files rows.jsonl c4        # kinds whose name holds one of these words

Every kind of file that the package reads: annotations in each format, lists and texts to calibrate on, vocabularies,
shards, archives, folders, images; results, examples, curves; masks, weights, checkpoints, statistics; configurations of
one's own, models of transformers. A damaged file
(`damage.py`) is read in this process. Counted:

* refused: one line that names the file.          * same: the values are those of the whole file.
* told: other values, and a word about it.        * another file: other values of a file that is whole in itself
  (another letter in a caption), whose fingerprint is another too, where it has one.
* faults: "silent wrong" (other values, no word), "traceback", "hang" (more than 20 s), "more than a line", and "does
  not name the file".
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import hashlib
import io
import json
import logging
import random
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks.endurance.damage import FORMS, Damage, another
from benchmarks.endurance.typing_errors import TooLong, asked, limited
from vlp_bench.data import minicopy
from vlp_bench.data.bert_vocabulary import bert_vocabulary
from vlp_bench.data.datasets.files import FilesCalibration
from vlp_bench.data.datasets.labelled_files import FilesLabelled
from vlp_bench.data.readers import coco, genome
from vlp_bench.data.readers.calibration_sets import read_set
from vlp_bench.data.readers.classes import Cifar
from vlp_bench.data.readers.formats import captions, labelled, pairs, questions, regions
from vlp_bench.data.readers.shards import Shards
from vlp_bench.data.readers.texts import read_texts
from vlp_bench.data.text import make_tokenizer
from vlp_bench.data.transforms.decoding import Folder
from vlp_bench.models.checkpoints.read_write import load_model, read_released, save_model, weights_hash
from vlp_bench.models.foreign import loading
from vlp_bench.models.foreign.inputs import Inputs
from vlp_bench.models.xvlm.model import XVLM, XVLMAdapter
from vlp_bench.models.xvlm.towers import XVLMConfig
from vlp_bench.pruning import released_masks
from vlp_bench.pruning.layers import find_layers
from vlp_bench.pruning.masks import file_format, packed_checkpoint
from vlp_bench.pruning.statistics.on_disk import StatisticsFolder, StoredStatistics
from vlp_bench.results import examples
from vlp_bench.results.report import material
from vlp_bench.results.row import Row
from vlp_bench.results.store import Store
from vlp_bench.runs.checkpointing import WholeFiles, read_checkpoint
from vlp_bench.runs.terminal.errors import explain
from vlp_bench.runs.trial_construction import construct_all
from vlp_bench.sweeps import plans

SECONDS = 20
FAULTS = ("silent wrong", "traceback", "hang", "more than a line", "does not name the file")
Values = Callable[[], Any]


@dataclass(frozen=True)
class Kind:
    """A kind of file: which, its form (see `damage.FORMS`), all that is made of it, and what identifies its content.

    root: a line that says what is wrong has this in it. keyed: or it names a key, which may come from several files.
    """

    file: Path
    form: str
    read: Values
    identity: Values | None = None
    root: Path = field(default=Path())
    keyed: bool = False

    @property
    def name(self) -> str:
        return f"{self.file.parent.name}/{self.file.name}"


# What is comparable about what was read


def plain(found: Any) -> Any:
    """Something whose repr is equal for equal values alone."""
    if isinstance(found, Tensor):
        return plain(found.detach().numpy() if found.dtype != torch.bfloat16 else found.float().numpy())
    if isinstance(found, np.ndarray):
        return str(found.dtype), found.shape, hashlib.sha256(np.ascontiguousarray(found).tobytes()).hexdigest()
    if isinstance(found, pd.DataFrame):
        return found.to_csv(index=False)
    if isinstance(found, Mapping):
        return {key: plain(value) for key, value in sorted(found.items(), key=lambda pair: str(pair[0]))}
    if isinstance(found, list | tuple):
        return [plain(value) for value in found]
    if dataclasses.is_dataclass(found):
        return {f.name: plain(getattr(found, f.name)) for f in dataclasses.fields(found)}
    return found


# Data


def data_kinds(root: Path) -> Iterator[Kind]:
    """Every format of the readers, in a copy of the embedded world."""
    copy = minicopy.write(root, images=8).root

    def kind(file: str, form: str, read: Callable[[Path], Any], identity: Values | None = None) -> Kind:
        return Kind(copy / file, form, functools.partial(read, copy / file), identity, copy)

    folder, own = copy / "images" / "coco", functools.partial
    for file, form in (("finetune/itr/coco_train.json", "salesforce"), ("finetune/itr/coco_val.json", "salesforce"),
                       ("karpathy/dataset_coco.json", "karpathy"), ("annotations/captions_val2014.json", "coco"),
                       ("nocaps/nocaps_val_4500_captions.json", "nocaps")):  # fmt: skip
        yield kind(file, "json", own(lambda path, form: captions(path, folder, form).records, form=form))
    for file, form in (("finetune/vqa/vqa_train.json", "salesforce"), ("gqa/testdev_balanced_questions.json", "gqa"),
                       ("vqa/v2_OpenEnded_mscoco_val2014_questions.json", "vqav2"),
                       ("visual_genome/question_answers.json", "visual_genome")):  # fmt: skip
        yield kind(file, "json", own(lambda path, form: questions(path, folder, form).records, form=form))
    for file, form in (("pretrain/vg_regions.json", "salesforce"), ("pretrain/vg_dense_gby_image.json", "grouped"),
                       ("visual_genome/region_descriptions.json", "visual_genome")):  # fmt: skip
        yield kind(file, "json", own(lambda path, form: regions(path, copy / "images/vg", form).records, form=form))
    yield kind("nlvr2/nlvr_dev.json", "json", lambda path: pairs(path, folder).records)
    yield kind("nlvr2/train.json", "lines", lambda path: pairs(path, folder, "nlvr2").records)
    yield kind("vqa/v2_mscoco_val2014_annotations.json", "json", lambda path: coco.read_vqa(
        path.with_name("v2_OpenEnded_mscoco_val2014_questions.json")))  # fmt: skip
    yield kind("visual_genome/image_data.json", "json", lambda path: genome.read_question_answers(
        path.with_name("question_answers.json")))  # fmt: skip
    yield from _class_kinds(copy)
    yield kind("img2dataset/webdataset/00000.tar", "tar", _shown)
    yield kind("img2dataset/files/00000/000000003.json", "member", lambda path: captions(
        path.parent.parent, "", "files").records)  # fmt: skip
    yield kind("c4/c4-train.00000-of-01024.json.gz", "bytes", lambda path: read_texts(path, 2))
    words, source = copy / "bert-base-uncased/vocab.txt", {"general": str(copy / "pretrain/vg_regions.json")}
    yield Kind(words, "text", lambda: make_tokenizer(bert_vocabulary(words)).get_vocab(),
               lambda: FilesCalibration(**source, vocab=str(words)).fingerprint("general"), copy)  # fmt: skip
    picture = next((copy / "images").rglob("*.jpg"), None) or next((copy / "images").rglob("*.png"))
    yield from _picture_kinds(copy / "pictures", picture)
    yield from _calibration_kinds(copy / "own", picture)


def _class_kinds(copy: Path) -> Iterator[Kind]:
    pets = {"annotations": str(copy / "oxford_pets/split_zhou_OxfordPets.json")}
    for file, form, how, own in (
        ("oxford_pets/split_zhou_OxfordPets.json", "coop", "json", pets),
        ("fgvc_aircraft/images_variant_train.txt", "aircraft", "text", {}),
        ("fgvc_aircraft/variants.txt", "aircraft", "text", {}),
        ("flowers102/annots/split.csv", "listed", "text", {}),
        ("flowers102/annots/metadata.csv", "listed", "text", {}),
        ("imagenet/annots/metadata.csv", "imagefolder", "text", {"names": str(copy / "imagenet/annots/metadata.csv")}),
        ("imagenet/classnames.txt", "imagefolder", "free", {"names": str(copy / "imagenet/classnames.txt")}),
    ):
        root = str(copy / file.partition("/")[0])
        make = functools.partial(FilesLabelled, root=root, format=form, **own)
        yield Kind(copy / file, how, lambda make=make: (make().labelled("train").records, make().classes),
                   lambda make=make: make().fingerprint("train"), copy)  # fmt: skip
    for file, how in (("cifar-10-binary.tar.gz", "tar.gz"), ("cifar-100-binary/train.bin", "pixels")):
        place = copy / file if how == "tar.gz" else (copy / file).parent
        yield Kind(copy / file, how, functools.partial(_cifar, place), root=copy)


def _cifar(path: Path) -> Any:
    found = Cifar(path)
    listed = found.labelled("train")
    return listed, [np.asarray(found.open(record.image)) for record in listed.records]


def _shown(path: Path) -> Any:
    """The records of a shard; its pictures are other files, as it were."""
    return captions(path, "", "webdataset").records, sorted(Shards(path).members)


def _picture_kinds(folder: Path, picture: Path) -> Iterator[Kind]:
    """A PNG, which has checksums, and a JPEG, which has none."""
    from PIL import Image

    (folder / "a").mkdir(parents=True)
    for name in ("a/one.png", "a/two.jpg"):
        Image.open(picture).convert("RGB").save(folder / name)
        form = "bytes" if name.endswith("png") else "jpeg"
        yield Kind(folder / name, form, lambda name=name: np.asarray(Folder(folder).open(name)), root=folder)
    yield Kind(folder / "a" / "one.png", "emptied", lambda: labelled(folder).records, root=folder)


def _calibration_kinds(root: Path, picture: Path) -> Iterator[Kind]:
    """What `vlp-bench prune` calibrates on."""
    image = picture.read_bytes()
    turns = [{"role": "user", "content": [{"type": "image", "image": "1.jpg"}, {"type": "text", "text": "what?"}]},
             {"role": "assistant", "content": "a dog"}]  # fmt: skip
    llava = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a cat"}]
    lists: dict[str, list[dict[str, Any]]] = {
        "captions": [{"image": f"{n}.jpg", "caption": f"picture number {n}"} for n in range(4)],
        "texts": [{"text": f"this is text number {n}, a long one"} for n in range(4)],
        "chats": [{"messages": turns}, {"messages": [{"role": "user", "content": "hi"}]}],
        "llava": [{"id": "1", "image": "2.jpg", "conversations": llava}, {"id": "2", "conversations": llava[1:]}],
    }
    for name, listed in lists.items():
        (root / name).mkdir(parents=True)
        for n in range(4):
            (root / name / f"{n}.jpg").write_bytes(image)
        file = root / name / f"{name}.jsonl"
        file.write_text("".join(json.dumps(record) + "\n" for record in listed))
        yield Kind(file, "lines", lambda file=file: read_set(file).records, root=root)
    (root / "words.txt").write_text("".join(f"sentence number {n} says little\n" for n in range(6)))
    yield Kind(root / "words.txt", "free", lambda: read_set(root / "words.txt").records, root=root)


# Results


def result_kinds(root: Path) -> Iterator[Kind]:
    """What runs leave behind."""
    store = Store(root / "runs")
    for run in ("one", "two"):
        rows = [_row(run, metric, value) for metric, value in (("a", 1.5), ("b", 22.25), ("c", 60.0))]
        store.append(run, rows)
    yield Kind(root / "runs/one/rows.jsonl", "lines", functools.partial(_stored, root / "runs"), root=root)
    folder = root / "runs" / "one"
    examples.write(folder, {"txt_rank": torch.arange(40), "text_image": torch.arange(40) // 5})
    yield Kind(folder / examples.FILE, "zip", lambda: examples.read(folder), root=root)
    table = io.StringIO()
    csv.writer(table).writerows([["epoch", "step", "train/loss"], *([n // 4, n, 2.5 / (n + 1)] for n in range(12))])
    curves = folder / "curves" / "version_0" / "metrics.csv"
    curves.parent.mkdir(parents=True)
    curves.write_text(table.getvalue())
    yield Kind(curves, "text", functools.partial(_curves, root / "runs"), root=root)


def _row(run: str, metric: str, value: float) -> Row:
    origin = {
        "config": {"seed": 0}, "versions": {"python": "3"}, "commit": None, "dirty": None, "data": "d", "mask": "m",
        "weights": "w", "hardware": {"cpus": 2}, "seconds": 1.5, "time": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    return Row(metric, value, "test", "xvlm_itr", "xvlm_mini", "retrieval", "mini", "omp", 0.9, 0, run, "s", 3, origin)


def _stored(root: Path) -> Any:
    """What readers of rows ask for; what a store has to report is a word."""
    store = Store(root)
    found = store.query(), [store.done(run) for run in ("one", "two")], material.studies(store)
    for problem in store.problems:
        warnings.warn(problem, stacklevel=1)
    return found[:2]


def _curves(root: Path) -> Any:
    [study, *_] = material.studies(Store(root))
    return study.curves("one")


# Masks, weights, checkpoints


def tensor_kinds(root: Path) -> Iterator[Kind]:
    """Masks in all forms, weights, checkpoints and statistics, of a small model."""
    draw = torch.Generator().manual_seed(0)
    masks = {name: torch.rand(6, 9, generator=draw) > 0.7 for name in ("block.one", "block.two", "alone")}
    values = {"block.one": torch.rand(6, 9, generator=draw) * masks["block.one"]}
    report = {"method": "x", "layers": {name: {"modality": "text", "block": "block"} for name in masks}}
    for form in ("plain", "compact"):
        file = file_format.write(root / f"{form}.safetensors", masks, values, report, form)
        yield Kind(file, "safetensors!", functools.partial(file_format.read, file), root=root)
    state = {name: torch.rand(6, 9, generator=draw) * mask for name, mask in masks.items()} | {"b": torch.ones(3)}
    file = packed_checkpoint.write(root / "packed.safetensors", state)
    yield Kind(file, "safetensors!", functools.partial(packed_checkpoint.read, file), root=root)
    WholeFiles().save_checkpoint({"state_dict": state, "epoch": 3}, root / "last.ckpt")
    yield Kind(root / "last.ckpt", "zip", lambda: read_checkpoint(root / "last.ckpt"), root=root)
    norms = {"norms": {"a": torch.rand(7, dtype=torch.float64), "b": torch.rand(3)}}
    archive, shapes = StatisticsFolder(root / "statistics"), {"a": (7,), "b": (3,)}
    archive.save("norms", StoredStatistics(norms, "abc", [1.0]))
    yield Kind(archive.file("norms"), "safetensors!",
               lambda: archive.load("norms", shapes, torch.device("cpu")), root=root)  # fmt: skip
    yield from _weight_kinds(root)


def _weight_kinds(root: Path) -> Iterator[Kind]:
    config = XVLMConfig(
        image_size=16, patch_size=8, vision_width=4, vision_layers=1, vision_heads=1, local_attn_depth=1, text_width=4,
        text_layers=2, fusion_layers=1, text_heads=1, vocab_size=6, embed_dim=4, max_positions=4,
    )  # fmt: skip
    ours = save_model(root / "w.safetensors", XVLM(config))
    yield Kind(ours, "safetensors", lambda: _model(load_model(ours)), lambda: weights_hash(ours), root)
    released = root / "released.pth"
    torch.save({"model": load_model(ours).state_dict(), "epoch": 3}, released)
    yield Kind(released, "zip", lambda: read_released(released, ("model",)), root=root)
    file, draw, model = root / "masks.pth", torch.Generator().manual_seed(1), load_model(ours)
    names = find_layers(model, cast("Any", XVLMAdapter()))
    torch.save({name + released_masks.SUFFIX: torch.rand(layer.weight.shape, generator=draw) > 0.5
                for name, layer in names.items()}, file)  # fmt: skip
    yield Kind(file, "zip", lambda: released_masks.read(file).masks, root=root)


def _model(model: torch.nn.Module) -> Any:
    return model.state_dict(), model.config


# Configurations of one's own


METHOD = """\
# a method of one's own
defaults:
  - allocate: uniform
  - solve: wanda
  - sweep: block_by_block
  - _self_
_target_: vlp_bench.pruning.pruner.Pruner
name: mine
compat: corrected
num_batches: 7
seed: 3
"""
EXPERIMENT = """\
# @package _global_
defaults:
  - /model: xvlm_mini
  - /task: retrieval_mini
  - /data: itr_mini
  - /benchmark: mini
experiment: mine
sparsity: 0.8
recipe:
  epochs: 3
task:
  k_test: 5
  lr: 0.001
"""
SWEEP = """\
# a table of one's own
parts:
  - exp: [xvlm_itr, blip_itr]
    pruner: [chita, chita_pp]
    sparsity: [0.63, 0.9]
    seed: [0, 1]
    dense: false
    overrides: [recipe.epochs=1]
    grid:
      pruner.ridge: [0.01, 0.1, 1]
"""


def config_kinds(root: Path) -> Iterator[Kind]:
    """A sweep, a method and an experiment of one's own, composed and constructed as a run does."""
    words = ("+exp=xvlm_itr", "pruner=mine"), ("+exp=mine", "pruner=omp")
    files = {"sweep.yaml": SWEEP, "pruner/mine.yaml": METHOD, "exp/mine.yaml": EXPERIMENT}
    for name, text in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    sweep = root / "sweep.yaml"
    yield Kind(sweep, "yaml", lambda: plans.read(sweep), root=root)
    for name, own in zip(list(files)[1:], words, strict=True):
        search = f"hydra.searchpath=[file://{root}]"
        yield Kind(root / name, "yaml", functools.partial(_composed, (*own, search)), root=root, keyed=True)


def _composed(words: Sequence[str]) -> Any:
    specification = asked(words)
    construct_all(specification)
    return specification.config


def folder_kinds(root: Path) -> Iterator[Kind]:
    """A model of transformers in two shards, its words and what makes its images."""
    model, words, images = _of_transformers(root / "model")
    index = sorted(file.name for file in model.glob("model*"))
    read = functools.partial(_foreign, model)
    for name in ("config.json", *index):
        form = "settings" if name.endswith("json") else "safetensors"
        identity = (lambda: repr(plain(read()))) if form == "safetensors" else None
        yield Kind(model / name, form, read, identity, root=root)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        yield Kind(model / name, "settings", words, root=root)
    yield Kind(model / "preprocessor_config.json", "settings", images, root=root)


def _foreign(folder: Path) -> Any:
    model = loading.load(loading.found_folder(str(folder)))
    return model.state_dict(), model.config.to_dict()


def _of_transformers(folder: Path) -> tuple[Path, Values, Values]:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, ViTConfig, ViTImageProcessorPil, ViTModel

    torch.manual_seed(0)
    size = {"height": 8, "width": 8}
    ViTModel(ViTConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, image_size=8,
                       patch_size=4)).save_pretrained(folder, max_shard_size=2000)  # fmt: skip
    table = {name: n for n, name in enumerate(("[PAD]", "[UNK]", "a", "dog", "cat", "red", "on", "sofa"))}
    raw = Tokenizer(models.WordLevel(table, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    ViTImageProcessorPil(size=size).save_pretrained(folder)
    made: Any = functools.partial(Inputs, cast("Any", None), folder)
    return folder, lambda: made().tokenizer.get_vocab(), lambda: made().image_processor.to_dict()


# Trying them


@contextmanager
def heard() -> Iterator[list[str]]:
    """What is said inside, by warnings and by the package's log."""
    said: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logger, ear = logging.getLogger("vlp_bench"), Ear(logging.WARNING)
    before, logger.propagate = logger.propagate, False
    logger.addHandler(ear)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield said
        said += [str(one.message) for one in warned]
    finally:
        logger.removeHandler(ear)
        logger.propagate = before


def verdict(kind: Kind, content: bytes, whole: bytes, expected: str, known: Any) -> tuple[str, str]:
    """What became of a damaged content, and what was said or read."""
    kind.file.write_bytes(content)
    try:
        with limited(SECONDS), heard() as said:
            found = repr(plain(kind.read()))
    except TooLong:
        return "hang", ""
    except Exception as error:
        return _of_error(kind, error)
    if found == expected:
        return "same", ""
    if said:
        return "told", said[0]
    if another(kind.form, whole, content) and (kind.identity is None or kind.identity() != known):
        return "another file", ""
    return "silent wrong", _apart(expected, found)


def _apart(expected: str, found: str) -> str:
    """Where two texts part, with what follows in both."""
    at = next((n for n, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), len(expected))
    return f"...{expected[max(0, at - 60) : at]} >>> {expected[at : at + 60]} <<< became >>> {found[at : at + 100]}"


def _of_error(kind: Kind, error: Exception) -> tuple[str, str]:
    line = explain(error)
    if line is None:
        return "traceback", f"{type(error).__name__}: {error}"
    if "\n" in line.strip() or not line.strip():
        return "more than a line", line
    return ("refused" if kind.keyed or str(kind.root) in line else "does not name the file"), line


def damages(form: str) -> Sequence[Damage]:
    return FORMS.get(form.rstrip("!"), FORMS["bytes"])


def tried(kind: Kind, each: int, seed: int, say: Callable[[str], object]) -> tuple[Counter[str], list[str]]:
    """Damage a file `each` times, leave it whole again; counts and faults."""
    whole, counts, faults = kind.file.read_bytes(), Counter[str](), list[str]()
    with heard():
        expected = repr(plain(kind.read()))
    known = kind.identity() if kind.identity is not None else None
    rng, ways = random.Random(f"{kind.name} {seed}"), damages(kind.form)
    try:
        for number in range(each):
            damage, draw = ways[number % len(ways)], random.Random(rng.random())
            content = damage(whole, draw)
            if content == whole:
                continue
            found, line = verdict(kind, content, whole, expected, known)
            counts[found] += 1
            if found in FAULTS:
                faults.append(f"{found}: {kind.name} after {damage.__name__}: {line}")
                say(faults[-1][:700])
    finally:
        kind.file.write_bytes(whole)
    return counts, faults


def every_kind(root: Path) -> list[Kind]:
    """All kinds, their files below `root`."""
    (root / "results").mkdir(parents=True)
    for name in ("tensors", "configs", "folders"):
        (root / name).mkdir()
    made = [*data_kinds(root / "data"), *result_kinds(root / "results"), *tensor_kinds(root / "tensors"),
            *config_kinds(root / "configs"), *folder_kinds(root / "folders")]  # fmt: skip
    for kind in made:
        assert kind.file.is_file(), kind.file
    return made


def main() -> None:
    """Try them, print counts by kind and the faults; exit code 1 if there are faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="in the names of kinds (default: all)")
    parser.add_argument("--each", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    total, began = Counter[str](), time.monotonic()
    with TemporaryDirectory() as folder:
        for kind in every_kind(Path(folder)):
            if not args.words or any(word in kind.name for word in args.words):
                counts = tried(kind, args.each, args.seed, functools.partial(print, flush=True))[0]
                total += counts
                print(f"{kind.name}: " + ", ".join(f"{n} {what}" for what, n in sorted(counts.items())), flush=True)
    print(f"{sum(total.values())} damaged files in {time.monotonic() - began:.0f} s: "
          + ", ".join(f"{n} {what}" for what, n in sorted(total.items())))  # fmt: skip
    raise SystemExit(1 if any(total[what] for what in FAULTS) else 0)


if __name__ == "__main__":
    main()
