"""What all readers share: a file read once, records checked one by one, errors that name file, record and remedy."""

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from vlp_bench.data.readers.tables import TABLES, rows
from vlp_bench.data.records import Box
from vlp_bench.data.transforms.decoding import inside

MOST_BYTES = 2**33
"""Larger annotation files are refused; the largest of the papers' has 1.5 GB."""
LISTS = (".json", ".jsonl", *TABLES)
"""What files of a list of records end with, which are what annotations can be; all but the first name lines."""
MOST_NAMED = 10
"""Cases of one kind that are listed by name."""
MOST_SIDE = 2**20
"""No image is that many pixels wide or high."""

T = TypeVar("T")
_log = logging.getLogger(__name__)
_CONTROLS = re.compile("[\0-\x08\x0e-\x1f\x7f]")
Record = dict[str, Any]


class BadRecord(ValueError):
    """A record that does not say what its format must; `parsed` puts file and number before it."""


class Together(ValueError):
    """Records of which each may be right, and which don't go together: an id that two of them have."""


class RepeatedKey(ValueError):
    """A JSON object with a key that stands in it twice."""


def load(path: Path, *, infinite: bool = False) -> Any:
    """The content of a JSON file; of a .jsonl the list of its lines, of a table (.csv, .tsv) that of its rows.

    `infinite`: NaN and Infinity, as Python writes them, are numbers there.

    Raises:
        ValueError: no such file, too large, not JSON, or JSON that holds NaN or Infinity.
    """
    if path.suffix.lower() in LISTS[1:]:
        return [record for _, record in entries(path)]
    return _decoded(path, text_of(path), infinite)


Entry = tuple[str, Any]
"""Where a record stands in its file, in words, and the record."""


def entries(path: Path, needed: Sequence[str] = ()) -> list[Entry]:
    """The records of a list, which may be JSON, a record a line, or a table that has the columns `needed`.

    Raises as `load`, and where there is no list or nothing in it.
    """
    ending = path.suffix.lower()
    if ending not in LISTS[1:]:
        return [*numbered(objects(path, load(path)))]
    found = load_lines(path) if ending == ".jsonl" else table(path, needed)
    if not found:
        raise ValueError(f"{path} is empty, it has no record; is the download complete?")
    return found


def table(path: Path, needed: Sequence[str] = ()) -> list[Entry]:
    """The rows of a table, whatever its name ends with."""
    return [(f"line {number}", record) for number, record in rows(path, text_of(path), needed)]


def load_lines(path: Path) -> list[Entry]:
    """The content of a file with one JSON object a line; raises as `load`, with the number of the line."""
    lines = enumerate(text_of(path).split("\n"), 1)
    return [(f"line {number}", _decoded(path, line, number=number)) for number, line in lines if line.strip()]


def numbered(records: Iterable[Any]) -> Iterator[Entry]:
    """The records of a JSON list, counted from 0."""
    return ((f"record {number}", record) for number, record in enumerate(records))


def lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty; raises as `load`."""
    found = [line.strip() for line in text_of(path).split("\n") if line.strip()]
    if not found:
        raise ValueError(f"{path} is empty; is the download complete?")
    if odd := next(filter(_CONTROLS.search, found), None):
        raise ValueError(f"{path} holds what no text does, in {brief(odd)}; is the download complete?")
    return found


def text_of(path: Path) -> str:
    """The content of a text file in UTF-8; raises as `load`."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path} has more than {MOST_BYTES} bytes; no annotation file is that large")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error.strerror}): is paths.data the folder it should be in?") from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not JSON or text ({error.reason}): save it as UTF-8; is the download complete?"
        ) from None


def _decoded(path: Path, text: str, infinite: bool = False, number: int = 0) -> Any:
    """The content of a JSON text, the whole file or its line `number`."""
    place = f"{path}, line {number}" if number else str(path)
    try:
        return decoded(text, infinite)
    except RepeatedKey as error:
        raise ValueError(f"{place}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is not JSON ({error}); {_cure(path, str(error))}") from None


def _cure(path: Path, error: str) -> str:
    if path.suffix.lower() not in LISTS:
        return f"annotations are read from {', '.join(LISTS[:-1])} and {LISTS[-1]} files"
    if path.suffix.lower() == ".jsonl":
        return "write one JSON object a line; is the download complete?"
    if error.startswith("Extra data: line 2 "):
        return "a file with an object a line is called .jsonl"
    return "is the download complete?"


def decoded(text: str, infinite: bool = False) -> Any:
    """The content of a JSON text; ValueError for NaN and Infinity, and for a key that stands twice in an object."""
    return json.loads(text, parse_constant=None if infinite else _refuse, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> Record:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise RepeatedKey(f"the key {twice!r} stands twice in {brief(found)}; only one of them can be meant")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"it holds {constant}, which is no number")


def unique(path: Path, pairs: Iterable[tuple[Any, T]], what: str) -> dict[Any, T]:
    """The pairs as a dictionary.

    Raises:
        Together: keys, which are `what` in words ("the image id"), stand twice.
    """
    found: dict[Any, T] = {}
    twice: dict[Any, None] = {}
    for key, value in pairs:
        if key in found:
            twice[key] = None
        found.setdefault(key, value)
    if twice:
        raise Together(f"{path}: {what} {some(map(brief, twice))} stands twice; leave one of the two out")
    return found


def some(names: Iterable[object]) -> str:
    """'a, b, c and 4 more'."""
    listed = list(map(str, names))
    more = f" and {len(listed) - MOST_NAMED} more" if len(listed) > MOST_NAMED else ""
    return ", ".join(listed[:MOST_NAMED]) + more


def objects(path: Path, found: Any, what: str = "a JSON list of at least one record") -> list[Any]:
    """`found` if it is a list with something in it; ValueError that says what the file must be otherwise."""
    if not isinstance(found, list) or not found:
        raise ValueError(f"{path} must be {what}, got {kind(found)}")
    return found


def part(path: Path, found: Any, key: str) -> Any:
    """`found[key]` of a file that is one JSON object."""
    if not isinstance(found, dict) or key not in found:
        keys = f" with {', '.join(map(repr, list(found)[:4]))}" if isinstance(found, dict) and found else ""
        raise ValueError(f"{path} must be a JSON object with {key!r}, got {kind(found)}{keys}")
    return found[key]


def kind(found: object) -> str:
    """What a piece of JSON is, in words."""
    return "an empty list" if found == [] else f"a {type(found).__name__}"


def parsed(path: Path, records: Iterable[Any], parse: Callable[[Record], T]) -> Iterator[T]:
    """Every record, parsed; what `parse` rejects gets the file and the number (from 0), see also `collecting`."""
    return parsed_entries(path, numbered(records), parse)


def parsed_list(path: Path, parse: Callable[[Record], T], needed: Sequence[str] = ()) -> Iterator[T]:
    """The same of the records of a list; raises as `entries`."""
    return parsed_entries(path, entries(path, needed), parse)


def parsed_entries(path: Path, entries: Iterable[Entry], parse: Callable[[Record], T]) -> Iterator[T]:
    """The same of records whose places are known."""
    faults, keys = _faults.get(), Keys()
    for place, record in entries:
        try:
            if not isinstance(record, dict):
                raise BadRecord(f"is a {type(record).__name__}, not an object with keys")
            keys.see(record)
            read = parse(record)
        except (ValueError, OverflowError) as error:
            if faults is None:
                raise ValueError(f"{path}, {place}: {error}") from None
            faults.append(f"{path}, {place}: {error}")
        else:
            yield read
    for line in keys.lacking():
        _log.warning("%s: %s", path, line)


class Keys:
    """Which keys the records of a file have, and what kind of value: what few lack is told, it may be damaged there.

    So with the objects in the lists of the records. `what` they are called.
    """

    def __init__(self, what: str = "records") -> None:
        self.what, self.forms = what, Counter[tuple[tuple[str, ...], tuple[type, ...]]]()
        self.nested: dict[str, Keys] = {}

    def see(self, record: Record) -> None:
        """Count the keys of one more record."""
        self.forms[tuple(record), tuple(map(type, record.values()))] += 1
        for key, value in record.items():
            if type(value) is list and value and type(value[0]) is dict:
                nested = self.nested.setdefault(key, Keys(f"{key[:80]!r}"))
                for entry in value:
                    if isinstance(entry, dict):
                        nested.see(entry)

    def lacking(self) -> Iterator[str]:
        """A line for each key and kind that at least half of the records have, and not all; one for the rare keys."""
        seen, total, records = Counter[tuple[str, str]](), Counter[str](), self.forms.total()
        for (keys, kinds), count in self.forms.items():
            for key, kind in zip(keys, kinds, strict=True):
                seen[key, _KINDS.get(kind, "nothing")] += count
                total[key] += count
        for (key, kind), count in seen.items():
            if records / 2 <= count < records:
                lack = f"{records - count} of {records} {self.what} have no {key[:80]!r}"
                yield f"{lack}, or another kind of value there than the others, which have {kind}"
        if rare := [key for key, count in total.items() if count < records / 2]:
            yield f"fewer than half of the {records} {self.what} have {brief(rare[:8])}"
        for nested in self.nested.values():
            yield from nested.lacking()


_KINDS = {str: "a text", int: "a number", float: "a number", bool: "true or false", list: "a list", dict: "an object"}
_faults: ContextVar[list[str] | None] = ContextVar("faults", default=None)


@contextmanager
def collecting() -> Iterator[list[str]]:
    """Bad records are left out and listed inside, where they would stop the reading: all of a file in one go."""
    found: list[str] = []
    before = _faults.set(found)
    try:
        yield found
    finally:
        _faults.reset(before)


def text(record: Mapping[str, Any], key: str) -> str:
    """A string with at least one letter or digit."""
    found = record.get(key)
    if not worded(found):
        raise BadRecord(f"needs {key!r}, a text with at least one word, got {got(record, key)}")
    return found


def texts(record: Mapping[str, Any], key: str) -> list[str]:
    """One string or a list of them, none without a letter or digit."""
    found = record.get(key)
    listed: list[Any] = found if isinstance(found, list) else [found]
    if not listed or not all(map(worded, listed)):
        raise BadRecord(f"needs {key!r}, a text or a list of texts with at least one word each, got {got(record, key)}")
    return listed


def worded(found: object) -> TypeGuard[str]:
    """Whether it is a text with a letter or digit, all of whose characters are characters."""
    return isinstance(found, str) and any(map(str.isalnum, found)) and not re.search("[\ud800-\udfff]", found)


def answers(record: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """One string or a list of them; an answer may be empty or punctuation, as some of VQA's are."""
    found = record.get(key)
    listed: list[Any] = found if isinstance(found, list) else [found]
    if not listed or not all(isinstance(a, str) and not re.search("[\ud800-\udfff]", a) for a in listed):
        raise BadRecord(f"needs {key!r}, an answer or a list of answers (texts), got {got(record, key)}")
    return tuple(listed)


def answers_if_any(record: Mapping[str, Any], key: str = "answer") -> tuple[str, ...]:
    """As `answers`; none of a record of a test file, which has no such key, nor one that others call so."""
    return answers(record, key) if key in record or any(name in record for name in CALLED[key]) else ()


def number(record: Mapping[str, Any], key: str) -> int:
    """A whole number that is not negative."""
    found = record.get(key)
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < 2**63:
        raise BadRecord(f"needs {key!r}, a whole number from 0, got {brief(found)}")
    return found


def identity(record: Mapping[str, Any], key: str) -> int | str:
    """A string or a whole number."""
    found = record.get(key)
    if not isinstance(found, str | int) or isinstance(found, bool) or found == "" or len(str(found)) > 200:
        raise BadRecord(f"{key!r} must be a string or a whole number, got {brief(found)}")
    return found


def image(record: Mapping[str, Any], key: str = "image") -> str:
    """A path that stays below the image folder."""
    found = record.get(key)
    if not isinstance(found, str):
        raise BadRecord(f"needs {key!r}, the path of the image, got {got(record, key)}")
    inside(found)
    return found


def box(found: Any, key: str = "bb") -> Box:
    """x, y, width, height in pixels, finite."""
    if not isinstance(found, list) or len(found) != 4 or not all(map(_measure, found)):
        raise BadRecord(f"needs {key!r}, [x, y, width, height] in pixels, got {brief(found)}")
    x, y, w, h = map(float, found)
    return x, y, w, h


def _measure(found: object) -> bool:
    return isinstance(found, int | float) and not isinstance(found, bool) and abs(found) <= MOST_SIDE


def frame(width: Any, height: Any) -> tuple[int, int]:
    """The size of an image in pixels."""
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 < n <= MOST_SIDE for n in (width, height)):
        raise BadRecord(f"'width' and 'height' must be pixels above 0, got [{brief(width)}, {brief(height)}]")
    return width, height


def fits(box: Box, frame: tuple[int, int]) -> bool:
    """Whether a box lies wholly inside an image of `frame` pixels and has an area."""
    x, y, w, h = box
    return min(x, y) >= 0 and min(w, h) > 0 and x + w <= frame[0] and y + h <= frame[1]


@contextmanager
def strictly() -> Iterator[None]:
    """The first bad record stops the reading inside, also within `collecting`."""
    before = _faults.set(None)
    try:
        yield
    finally:
        _faults.reset(before)


CALLED = {
    "image": ("img", "image_path", "file_name", "filename", "file", "path", "filepath", "img_path", "image_file"),
    "caption": ("captions", "text", "texts", "sentence", "sentences", "description"),
    "question": ("text", "query", "sent"),
    "answer": ("answers", "label", "labels", "multiple_choice_answer"),
    "sentence": ("text", "statement", "caption"),
}
"""What others call a key of ours."""


def got(record: Mapping[str, Any], key: str) -> str:
    """What stands at a key; where there is none, which key of the record is probably meant."""
    if key in record:
        return brief(record[key])
    others: Sequence[str] = [name for name in CALLED.get(key, ()) if name in record]
    return f"None; {others[0]!r} is there: call it {key!r}" if others else f"None; its keys are {brief(list(record))}"


def brief(found: object) -> str:
    """At most 80 characters of a value."""
    shown = repr(found)
    return shown if len(shown) <= 80 else shown[:77] + "..."
