"""Check data before training; write a small set in every format.

    vlp-bench data check +exp=xvlm_itr benchmark=paper paths.data=DIR     what an experiment reads
    vlp-bench data check FILE [FILE ...] images=DIR [format=NAME]         files, format recognised
    vlp-bench data check FOLDER                                           annotations, shards, or a folder a class
    vlp-bench data mini-copy DIR [images=20] [side=48]                    the embedded world on disk
    vlp-bench data docstrings FILE                                        pairs of texts of this Python's library

check reads all annotations and opens 200 images of each split (--all: every one, --sample=N: N); it prints counts,
every bad record, missing and broken images, transparent, 16-bit and turned ones, words that the vocabulary (vocab=FILE)
lacks, what is left out and why, duplicates, and images that two splits share. It ends with 0 if nothing must be mended,
else with 2.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlp_bench.runs.terminal.console import console, print_help
from vlp_bench.runs.terminal.errors import MISTAKE, UserError, one_line, wants_traceback
from vlp_bench.spelling import count_of

if TYPE_CHECKING:
    from vlp_bench.data.checking import Advance, Report
    from vlp_bench.data.readers.formats import Split

SAMPLE = 200
ONE = {"records": "record", "captions": "caption", "regions": "region", "answers": "answer", "classes": "class",
       "images": "image"}  # fmt: skip
"""What is counted -> one of it."""


def main() -> None:
    """Perform one of the three."""
    words = sys.argv[1:]
    if not words or {"-h", "--help"} & set(words):
        print_help(__doc__)
        return
    with one_line(words, traceback=wants_traceback(words)):
        command, *rest = words
        if command == "check":
            _check(rest)
        elif command == "mini-copy":
            _mini_copy(rest)
        elif command == "docstrings":
            _docstrings(rest)
        else:
            known = "check, mini-copy or docstrings"
            raise UserError(f"{command}: there is no such command; write {known} (--help tells more)")


def _docstrings(words: Sequence[str]) -> None:
    from vlp_bench.data.readers.docstrings import documented, write

    if len(words) != 1 or "=" in words[0]:
        raise UserError("docstrings takes one file: vlp-bench data docstrings FILE")
    told = write(Path(words[0]))
    pairs = documented()
    counts = ", ".join(f"{sum(p.split == s for p in pairs):,} {s}" for s in ("train", "val", "test"))
    console.print(f"{count_of(len(pairs), 'pair')} in {words[0]} ({counts}), hash {told}", soft_wrap=True, markup=False)


def _mini_copy(words: Sequence[str]) -> None:
    from vlp_bench.data.minicopy import write

    options, folders = _options(words, {"images": "20", "side": "48"})
    if len(folders) != 1:
        raise UserError("mini-copy takes one folder: vlp-bench data mini-copy DIR")
    copy = write(folders[0], *(_whole(key, options[key]) for key in ("images", "side")))
    files = sorted({what.partition("#")[0] for what in copy.told})
    console.print(
        f"{count_of(len(files), 'data file')} in {copy.root}; README.txt there says which format each has",
        soft_wrap=True,
    )


def _check(words: Sequence[str]) -> None:
    options, rest = _options(words, {"--sample": str(SAMPLE), "format": "", "images": "", "vocab": ""})
    most = None if "--all" in rest else _whole("--sample", options["--sample"])
    rest = [word for word in rest if word != "--all"]
    if any(word.lstrip("+").startswith("exp=") for word in rest):
        given = [f"{key}={options[key]}" for key in ("format", "images", "vocab") if options[key]]
        if given:
            raise UserError(f"{given[0]}: an experiment says itself where its data lie; set data.source.{given[0]}")
        splits, vocabulary = _of_experiment(rest)
    else:
        splits = _of_files(rest, options["images"], options["format"])
        vocabulary = options["vocab"] or None
    if not examine(splits, most, vocabulary):
        raise SystemExit(MISTAKE)


Splits = Mapping[str, "Callable[[], Split[Any]]"]


def examine(splits: Splits, most: int | None, vocabulary: "Mapping[str, int] | Path | str | None" = None) -> bool:
    """Print what is found in the splits; whether nothing must be mended.

    `most`: images to open of each, None for all. `vocabulary`: what the texts' words are looked up in, if anything.
    Nothing is printed but by the console, whose width cuts no path.
    """
    from vlp_bench.data import checking
    from vlp_bench.data.text import make_tokenizer

    tokenizer = None if vocabulary is None else make_tokenizer(vocabulary)
    reports: dict[str, Report] = {}
    with _bar() as bar:
        for name, read in splits.items():
            report, split = checking.check(name, read)
            reports[name] = report
            if split is not None:
                if tokenizer is not None:
                    checking.read_words(report, split, tokenizer)
                images = checking.chosen(report, most)
                checking.look(report, split, images, bar(name, len(images)))
    problems, notes = checking.leaks(reports)
    told: list[str] = []  # what a file that holds several splits has wrong is said of the first
    for report in reports.values():
        counts = ", ".join(f"{n:,} {ONE.get(what, what) if n == 1 else what}" for what, n in report.counts.items())
        console.print(f"[bold]{report.name}[/]: {counts or 'not read'}", soft_wrap=True)
        new = [problem for problem in report.problems if problem not in told]
        _say(new or ["as above"] * bool(report.problems), report.notes)
        told += new
    _say(problems, notes)
    found = len(told) + len(problems)
    console.print(f"[red]{found} to mend[/]" if found else "[green]nothing to mend[/]")
    return found == 0


def _say(problems: Sequence[str], notes: Sequence[str]) -> None:
    for colour, word, lines in (("red", "mend", problems), ("yellow", "note", notes)):
        for line in lines:
            console.print(f"  [{colour}]{word}[/]: ", end="")
            console.print(line, markup=False, soft_wrap=True)


@contextmanager
def _bar() -> "Iterator[Callable[[str, int], Advance]]":
    """A progress bar for each split that is looked at."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:

        def add(name: str, total: int) -> "Advance":
            task = progress.add_task(f"images of {name}", total=total)
            return lambda: progress.advance(task)

        yield add


def _of_experiment(words: Sequence[str]) -> "tuple[Splits, Mapping[str, int] | Path | None]":
    """Every split an experiment's data read, and their vocabulary; files that are not there are one line."""
    from omegaconf import OmegaConf

    from vlp_bench.construct import construct
    from vlp_bench.data.checking import splits_of
    from vlp_bench.runs.specification import check_values, missing_files, register
    from vlp_bench.runs.terminal.conf import composed

    register()
    config = composed(words, hydra=False)
    check_values(config)
    if missing := missing_files(config, "data"):
        places = "; ".join(f"{key}: {place}" for key, place in missing.items())
        what = "1 file or folder is" if len(missing) == 1 else f"{len(missing)} files or folders are"
        raise UserError(f"{what} not there: {places}; set paths.data=FOLDER")
    found: dict[str, Callable[[], Split[Any]]] = {}
    vocabulary: Mapping[str, int] | Path | None = None
    for key, prefix in (("source", ""), ("calibration_source", "calibration ")):
        if key in config.data:
            plain = OmegaConf.to_container(config.data[key], resolve=True)
            source = construct(plain, f"data.{key}", config.allow)
            found |= {prefix + name: read for name, read in splits_of(source).items()}
            vocabulary = getattr(source, "vocabulary", vocabulary)
    if not found:  # data=own: its source follows from a folder
        plain = OmegaConf.to_container(config.data, resolve=True, throw_on_missing=True)
        source = construct(plain, "data", config.allow).source
        return splits_of(source), getattr(source, "vocabulary", None)
    return found, vocabulary


def _of_files(paths: Sequence[str], images: str, form: str) -> Splits:
    from vlp_bench.data import checking

    if not paths:
        raise UserError("check takes +exp=NAME or annotation files; --help tells more")
    if wrong := [word for word in paths if "=" in word or word.startswith("-")]:
        raise UserError(
            f"{wrong[0]}: with files, check knows images=DIR, format=NAME, vocab=FILE, --all and --sample=N"
        )
    if len(paths) == 1 and (listed := _annotations(Path(paths[0]))):
        below = Path(paths[0]) / "images"
        return _of_files(listed, images or str(below if below.is_dir() else paths[0]), form)
    if len(paths) == 1 and "karpathy" in ([form] if form else _looks_like(paths[0])):
        return {split: _of_karpathy(paths[0], images, split) for split in checking.SPLITS}
    named = _named(_without_answers(paths))
    return {name: (lambda path=path: _recognised(path, images, form)) for name, path in named.items()}


def _without_answers(paths: Sequence[str]) -> list[str]:
    """All but the files of answers that are read with the questions beside them (VQAv2)."""
    from vlp_bench.data.readers.coco import answers_beside

    beside = {Path(path): answers_beside(Path(path)) for path in paths}
    answers = {own for path, own in beside.items() if own != path}
    return [path for path in paths if Path(path) not in answers]


def _annotations(folder: Path) -> list[str]:
    """The annotation files of a folder, in it or in `annotations` below it, as `data=own` looks for them."""
    from vlp_bench.data.datasets.own import annotation_files

    return [str(file) for file in annotation_files(folder) if _looks_like(str(file))] if folder.is_dir() else []


def _looks_like(path: str) -> list[str]:
    from vlp_bench.data.readers import checked, formats

    return formats.recognise(Path(path)) if Path(path).suffix.lower() in checked.LISTS else []


def _of_karpathy(path: str, images: str, split: str) -> "Callable[[], Split[Any]]":
    """A split of a file that keeps all three."""
    from vlp_bench.data.readers import formats

    def read() -> "Split[Any]":
        found = formats.captions(path, images or str(Path(path).parent), "karpathy", split)
        if not images:
            _check_images(Path(path), found)
        return found

    return read


def _named(paths: Sequence[str]) -> dict[str, str]:
    """Name -> path. A folder with train, val and test of class folders is these three, compared with each other."""
    from vlp_bench.data.checking import SPLITS
    from vlp_bench.data.readers.formats import class_folders
    from vlp_bench.data.readers.split_names import split_folders

    if len(paths) == 1 and (root := Path(paths[0])).is_dir():
        folders = ((split, folder) for split in SPLITS for folder in split_folders(root, split))
        found = {split: str(folder) for split, folder in folders if class_folders(folder)}
        if len(found) > 1:
            return found
    return {path: path for path in paths}


def _recognised(path: str, images: str, form: str) -> "Split[Any]":
    """A file read as the first kind of data its content can be; tables give their training split."""
    from vlp_bench.data.readers import checked, formats

    given = Path(path)
    found = [form] if form else formats.recognise(given)
    if not found:
        # a file that is not there, or is cut off, says so itself
        content = checked.load(given) if given.suffix.lower() in checked.LISTS else None
        known = ", ".join(formats.TITLES)
        raise ValueError(
            f"cannot tell what {path} is{_looks(content)}; is it there, and complete? Else say format=NAME: {known}"
        )
    readers = [(name, read) for allowed, read in formats.KINDS.values() for name in found if name in allowed]
    if not readers:
        raise ValueError(f"format={form}: check reads {', '.join(formats.READ)}")
    name, read = _furthest(given, images, readers)
    split = read(given, images or str(given.parent), name)
    if not images and not given.is_dir() and split.records:
        _check_images(given, split)
    return split


Readers = Sequence[tuple[str, "Callable[..., Split[Any]]"]]


def _furthest(path: Path, images: str, readers: Readers) -> "tuple[str, Callable[..., Split[Any]]]":
    """The reader that reads all, or else the one that stops last: it reads the right kind of data."""
    from vlp_bench.data.readers import checked

    stops: list[int] = []
    for name, read in readers:
        try:
            with checked.strictly():
                read(path, images or str(path.parent), name)
            return name, read
        except ValueError as error:
            stops.append(_record(error))
    return readers[max(range(len(stops)), key=lambda n: (stops[n], n))]


def _looks(content: Any) -> str:
    """What a JSON list that no reader knows has instead of what they ask for."""
    from vlp_bench.data.readers import checked

    first = content[0] if isinstance(content, list) and content else None
    if not isinstance(first, dict):
        return ""
    missing = checked.got(first, "image") if "image" not in first else ""
    return f": a list of records with {', '.join(map(repr, first))}" + (f" ('image' is {missing})" if missing else "")


def _check_images(path: Path, split: "Split[Any]") -> None:
    """Raise ValueError if no image lies beside its annotation file, and no folder was given."""
    from vlp_bench.data.checking import absent

    if said := absent(split):
        raise ValueError(f"images=FOLDER is missing: {path} {said}; give the folder its paths start from")


def _record(error: ValueError) -> int:
    """The record, or its line, that a reader stopped at: the one that came furthest reads the right kind of data."""
    from vlp_bench.data.readers.checked import Together

    if isinstance(error, Together):
        return sys.maxsize
    found = re.search(r"(?:record|line) (\d+)", str(error))
    return int(found[1]) if found else -1


def _options(words: Sequence[str], known: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Values of the known `key=value` words, and the other words."""
    given = {key: value for key, _, value in (word.partition("=") for word in words) if key in known and value}
    return {**known, **given}, [word for word in words if word.partition("=")[0] not in known]


def _whole(key: str, value: str) -> int:
    if not value.isdecimal() or not int(value):
        raise UserError(f"{key}={value}: must be a whole number from 1")
    return int(value)


if __name__ == "__main__":
    main()
