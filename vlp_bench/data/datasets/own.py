"""Data of one's own: a folder and the format of what is in it; files are found by their usual names.

A model is calibrated on the training split unless other captions are named: pre-training data are seldom at hand.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Required, TypedDict, Unpack

from vlp_bench.data import checking
from vlp_bench.data.calibration import CalibrationSettings
from vlp_bench.data.datasets.captioning import CaptioningData
from vlp_bench.data.datasets.classification import ClassificationData, LabelledCalibration
from vlp_bench.data.datasets.files import SPLITS, FilesCalibration, FilesPairs, FilesQuestions, FilesRetrieval
from vlp_bench.data.datasets.labelled_files import LABELLED, FilesLabelled
from vlp_bench.data.datasets.pairs import PairData
from vlp_bench.data.datasets.prompts import Prompts
from vlp_bench.data.datasets.questions import QuestionData
from vlp_bench.data.datasets.retrieval import RetrievalData
from vlp_bench.data.datasets.seeded import SeededData
from vlp_bench.data.datasets.sources import Split
from vlp_bench.data.items import Transform
from vlp_bench.data.readers import checked, formats
from vlp_bench.data.readers.split_names import NAMES, is_of, split_folders, words
from vlp_bench.data.records import CaptionedImage, said_in
from vlp_bench.data.text import Tokenizer, unknown_words

_log = logging.getLogger(__name__)
ONE_FILE = ("karpathy", "coop")
"""Formats that keep all splits in one file."""
BESIDE = ("annotations", "image_data")
"""What is read beside a file of questions, and is none itself."""
OFFICIAL = {"coco": "captions", "vqav2": "questions", "gqa": "questions"}
"""Formats beside whose files lie others of the same split, boxes or scene graphs -> a word that only theirs have."""
FOLDERS = ("files", "webdataset", "imagefolder")
"""Formats whose splits are folders."""


def found(root: Path, form: str, split: str) -> Path:
    """The annotation file or folder of a split below `root`, or below `root/annotations`.

    A test split that is not there is the validation split; the file of another split is never taken.

    Raises:
        ValueError: there is no such folder, none fits, or several do; it says which key names the right one.
    """
    check_root(root)
    fitting = _fitting(root, form, split)
    if not fitting and split == "test" and len(instead := _fitting(root, form, "val")) == 1:
        _log.warning("%s has no test split: what is tested is the validation split", root)
        return instead[0]
    if len(fitting) != 1:
        what = "folder" if form in FOLDERS else "file"
        there = f"{len(fitting)} fit ({', '.join(p.name for p in fitting[:4])})" if fitting else "none is there"
        cure = "call one so" if form == "imagefolder" else f"name it with data.{split}={what.upper()}"
        raise ValueError(
            f"data.root={root}: which {what} has the {split} split of format {form}? {there} (looked for "
            f"{_looked_for(form, split)}); {cure}"
        )
    return fitting[0]


def check_root(root: Path, splits: Sequence[str] = SPLITS) -> None:
    """ValueError if there is no such folder; `splits` are the keys by which files can be named."""
    if root.is_file():
        keys = " or ".join(f"data.{split}={root.name}" for split in splits)
        raise ValueError(f"data.root={root}: this is a file; give its folder, data.root={root.parent}, and {keys}")
    if not root.is_dir():
        raise ValueError(f"data.root={root}: there is no such folder")


def placed(root: Path, given: str, key: str) -> Path:
    """A file or folder that a key names: as it is typed, or below the root.

    Raises:
        ValueError: it is at neither place; says what is below the root.
    """
    places = Path(given), root / given
    if there := next((place for place in places if place.exists()), None):
        return there
    names = sorted(file.name for file in root.iterdir()) if root.is_dir() else []
    beside = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    raise ValueError(
        f"{key}={given}: there is nothing of this name, nor below {root}, which holds {beside or 'nothing'}"
    )


def _looked_for(form: str, split: str) -> str:
    names = " or ".join(NAMES[split])
    if form in FOLDERS:
        return f"a folder {names}"
    ending = " or ".join(formats.ENDINGS.get(form, (".json",)))
    return "one .json file" if form in ONE_FILE else f"a {ending} file with the word {names} in its name"


def _fitting(root: Path, form: str, split: str) -> list[Path]:
    if form == "parquet":
        return [root]  # its tables are named by split
    if form in FOLDERS:
        return split_folders(root, split)
    endings = formats.ENDINGS.get(form, (".json",))
    files = [file for file in annotation_files(root) if file.suffix.lower() in endings]
    files = [file for file in files if form == "coco" or not any(word in file.stem for word in BESIDE)]
    if form in ONE_FILE:
        return files
    fitting = [file for file in files if is_of(file.stem, split)]
    fitting = [file for file in fitting if file.suffix.lower() not in checked.TABLES] or fitting
    return [file for file in fitting if OFFICIAL.get(form) in words(file.stem)] or fitting


def annotation_files(root: Path) -> list[Path]:
    """What may hold annotations, in a folder or in `annotations` below it."""
    folders = [folder for folder in (root, root / "annotations") if folder.is_dir()]
    return sorted(f for folder in folders for f in folder.iterdir() if f.suffix.lower() in checked.LISTS)


class _OwnCalibration(FilesCalibration):
    """Calibrates on what is trained on, where no other captions are given."""

    training: Callable[[str], Split[Any]]
    own = True

    @cached_property
    def _general(self) -> Split[CaptionedImage]:
        if not self.own:
            return super()._general
        split = self.training("train")
        return Split(list(_spoken(split.records)), split.images)


def _spoken(records: Sequence[Any]) -> Iterator[CaptionedImage]:
    """What is said of every image, as captions: questions, sentences about a pair's left image."""
    told: dict[str, list[str]] = {}
    for record in records:
        image = record.images[0] if hasattr(record, "images") else record.image
        texts = [record.question] if hasattr(record, "question") else said_in([record])
        told.setdefault(image, []).extend(texts)
    return (CaptionedImage(image, tuple(texts), image) for image, texts in told.items())


class OwnCaptions(_OwnCalibration, FilesRetrieval):
    """Captions, calibrated on those of the training split."""

    @property
    def training(self) -> Callable[[str], Split[Any]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.captions


class OwnQuestions(_OwnCalibration, FilesQuestions):
    """Questions, calibrated on the training split's images and questions."""

    @property
    def training(self) -> Callable[[str], Split[Any]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.questions


class OwnPairs(_OwnCalibration, FilesPairs):
    """Pairs, calibrated on the training split's left images and sentences."""

    @property
    def training(self) -> Callable[[str], Split[Any]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.pairs


KINDS: Mapping[str, tuple[Callable[..., SeededData], Callable[..., Any], Sequence[str]]] = {
    "Retrieval": (RetrievalData, OwnCaptions, (*formats.CAPTIONS, *formats.HOLDING_IMAGES)),
    "Captioning": (CaptioningData, OwnCaptions, (*formats.CAPTIONS, *formats.HOLDING_IMAGES)),
    "VQA": (QuestionData, OwnQuestions, tuple(formats.QUESTIONS)),
    "Pairs": (PairData, OwnPairs, tuple(formats.PAIRS)),
    "Classification": (ClassificationData, FilesLabelled, LABELLED),
    "ZeroShot": (ClassificationData, FilesLabelled, LABELLED),
}
"""Task -> its data, their source, and the formats that may be read."""
TEMPLATE, WORLD_TEMPLATE = "a photo of a {}.", "there is a large {}"
"""Sentences about a class, where none is given: as CLIP's authors put it, and as the embedded world does."""
COMMON = ("train_transform", "eval_transform", "batch_size", "eval_batch_size", "num_workers", "seed")
_TEXTS = ("max_words", "max_tokens", "sep", "max_unknown", "max_broken")
OPTIONS: Mapping[str, Sequence[str]] = {
    "Retrieval": (*_TEXTS, "each"),
    "Captioning": (*_TEXTS, "each", "prompt"),
    "VQA": (*_TEXTS, "flip", "train_on_val", "test_words"),
    "Pairs": (*_TEXTS, "swap"),
    "Classification": (),
    "ZeroShot": (),
}
"""What the data of a task take beside what those of all tasks take (`COMMON`)."""


@dataclass(frozen=True)
class Files:
    """Where the texts of one's own data lie, and how they are read.

    root, format: the folder, and the form of its annotations. train, val, test: annotation files, where they cannot be
    told by their names. images: the folder their paths start from; else `images` below the root if there is one, else
    the root. vocab, orientation: see `FilesCalibration`. general, general_images, general_format: other captions to
    calibrate on. answer_list, least: see `FilesQuestions`.
    """

    root: str
    format: str
    train: str | None = None
    val: str | None = None
    test: str | None = None
    images: str | None = None
    vocab: str | None = None
    orientation: str = "upright"
    general: str | None = None
    general_images: str = ""
    general_format: str = "salesforce"
    answer_list: str | None = None
    least: int = 1

    @property
    def folder(self) -> Path:
        return Path(self.root)

    @property
    def _pictures(self) -> str:
        below = self.folder / "images"
        return self.images or str(below if below.is_dir() else self.folder)

    def _placed(self, split: str) -> Path:
        """Where a split's annotations are: where a key says, or where their name tells."""
        given = getattr(self, split)
        return placed(self.folder, given, f"data.{split}") if given else found(self.folder, self.format, split)

    def source(self, make: Callable[..., Any]) -> Any:
        """A source of texts, calibrated on its training split where no other captions are given."""
        splits = {split: str(self._placed(split)) for split in SPLITS}
        ranked = {"answer_list": self.answer_list, "least": self.least} if make is OwnQuestions else {}
        read = make(
            **splits,
            **ranked,
            images=self._pictures,
            format=self.format,
            vocab=self.vocab,
            orientation=self.orientation,
            general=self.general or splits["train"],
            general_images=self.general_images,
            general_format=self.general_format,
        )
        read.own = self.general is None
        return read

    def labelled(self) -> FilesLabelled:
        """A source of images by class."""
        if self.format != "cifar":  # whose archive may be one file
            check_root(self.folder)
        listed = str(found(self.folder, self.format, "train")) if self.format == "coop" else None
        instead = self._class_folders() if self.format == "imagefolder" else {}
        if self.format == "cifar":
            instead = {"val": "test"}
            _log.warning("%s has no validation split: the epoch is chosen on the test split", self.root)
        return FilesLabelled(
            root=self.root,
            format=self.format,
            splits=instead,
            annotations=listed,
            images=self._pictures,
            orientation=self.orientation,
        )

    def _class_folders(self) -> dict[str, str]:
        """Our splits -> the names of their folders. ValueError where one is not there, or stands twice."""
        folders = {split: found(self.folder, self.format, split).name for split in SPLITS}
        return folders | {"calibration": folders["train"]}


class Given(TypedDict, total=False):
    """The fields of `Files`, and what the data of any task take beside; each takes its own.

    says, classes: for the header of a run, and for a task that counts them. template, sentences: of zero-shot
    classification, a sentence with {} in the place of the class, and what reads it.
    """

    root: Required[str]
    format: Required[str]
    train: str | None
    val: str | None
    test: str | None
    images: str | None
    vocab: str | None
    orientation: str
    general: str | None
    general_images: str
    general_format: str
    answer_list: str | None
    least: int
    says: str
    classes: int | None
    template: str | None
    sentences: Callable[[], Tokenizer]
    train_transform: Transform
    eval_transform: Transform
    batch_size: int
    eval_batch_size: int
    num_workers: int
    seed: int
    max_words: int
    max_tokens: int
    sep: bool
    max_unknown: float
    max_broken: int
    each: str
    prompt: str
    flip: float
    train_on_val: bool
    test_words: int
    swap: float


def unread(task: str, keys: Iterable[str]) -> list[str]:
    """Which of some keys (`template`) the data of another task read, and those of this one don't."""
    kind = _kind(task)
    return sorted(key for key in keys if key not in _read_by(kind) and any(key in _read_by(other) for other in KINDS))


def _read_by(kind: str) -> set[str]:
    own = {*COMMON, *OPTIONS[kind], "root", "format", "images", "orientation"}
    if KINDS[kind][1] is FilesLabelled:
        return own | ({*_SENTENCES} if kind == "ZeroShot" else set())
    ranked = () if kind == "VQA" else ("answer_list", "least")
    return own | {field.name for field in fields(Files)} - {*ranked}


def readers(key: str) -> list[str]:
    """The tasks whose data read a key."""
    return [kind for kind in KINDS if key in _read_by(kind)]


@contextmanager
def own_keys() -> Iterator[None]:
    """Errors of a source, and of what reads its files, name its keys as own.yaml has them: no `source` is between."""
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error).replace("data.source.", "data.")) from error


@own_keys()
def own_data(*, task: str, calibration: CalibrationSettings, **own: Unpack[Given]) -> SeededData:
    """The data of a task from one folder.

    Args:
        task: the class of the task, by its whole name.
        calibration: how much is shown to the pruner; cut to what the training split has.

    Raises:
        ValueError: another task or format, or files that are not there.
    """
    given: dict[str, Any] = {**own}
    kind, allowed = _kind(task), allowed_formats(task)
    make, source, _ = KINDS[kind]
    names = {field.name for field in fields(Files)}
    files = Files(**{key: value for key, value in given.items() if key in names})
    formats.check(files.format, allowed, "data.format")
    settings = {key: given[key] for key in (*COMMON, *OPTIONS[kind]) if key in given}
    if source is FilesLabelled:
        labelled = files.labelled()
        _check_images(labelled)
        if kind == "ZeroShot":
            settings["prompts"] = _prompts(labelled.classes, **{key: given[key] for key in _SENTENCES})
        cut = _cut(calibration, len(labelled.labelled("calibration").records))
        shown = LabelledCalibration(cut.transform, cut.num_batches, cut.batch_size, cut.seed)
        return make(labelled, calibration=shown, **settings)
    read = files.source(source)
    _check_images(read)
    if kind == "Retrieval":
        _say_shared(read)
    return make(read, calibration=_cut(calibration, len(read.general().records)), **settings)


_SENTENCES = ("template", "sentences", "vocab", "max_unknown")


def _prompts(
    classes: Sequence[str],
    template: str | None,
    sentences: Callable[[], Tokenizer],
    vocab: str | None,
    max_unknown: float,
) -> Prompts:
    """Sentences about classes, in words that the model knows; ValueError where too few of them are."""
    tokenizer = sentences()
    found = Prompts(template or (WORLD_TEMPLATE if vocab == "world" else TEMPLATE), tokenizer)
    if vocab == "world":  # CLIP's own tokenizer knows every word by its pieces
        told = unknown_words(map(found.sentence, classes), tokenizer)
        if told.share > max_unknown:
            raise ValueError(
                f"sentences about the classes, such as {found.sentence(classes[0])!r}: {told}. Take a model that knows "
                "them (benchmark=paper paths.weights=FOLDER), other names of class folders, another data.template, or "
                f"go on all the same with data.max_unknown=1 (now {max_unknown:g})"
            )
        if told.unknown:
            _log.warning("sentences about the classes: %s", told)
    return found


def allowed_formats(task: str) -> Sequence[str]:
    """The formats that the data of a task (its class, by its whole name) may have; errors as for `own_data`."""
    return KINDS[_kind(task)][2]


def _kind(task: str) -> str:
    kind = task.rpartition(".")[2]
    if kind not in KINDS:
        raise ValueError(f"data=own knows the tasks {', '.join(KINDS)}, not {kind}: write a yaml under conf/data")
    return kind


def _check_images(source: Any) -> None:
    """ValueError if the images of a split are looked for in the wrong folder, before anything is pruned."""
    for name, read in checking.splits_of(source).items():
        if said := checking.absent(read()):
            raise ValueError(f"the {name} split {said}; give the folder its paths start from with data.images=FOLDER")


def _say_shared(source: OwnCaptions) -> None:
    """Say how many captions of a gallery are of several images: they bound what recalls can be."""
    for split in SPLITS[1:]:
        for line in checking.shared_captions(source.captions(split).records):
            _log.warning("%s: %s", split, line)


def _cut(calibration: CalibrationSettings, there: int) -> CalibrationSettings:
    """Settings that ask for no more images than there are."""
    size = min(calibration.batch_size, there)
    batches = min(calibration.num_batches, there // size)
    return replace(calibration, batch_size=size, num_batches=batches, parts=["general"])


def number_of_classes(root: str, form: str) -> int:
    """How many classes a folder's training split has; ValueError as for `own_data`."""
    formats.check(form, LABELLED, "data.format")
    return len(Files(root, form).labelled().classes)
