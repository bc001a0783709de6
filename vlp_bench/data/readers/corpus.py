"""One long text to read: WikiText's raw file, plain text, or a text a line; and MMLU's questions in CSV files."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from vlp_bench.data.readers import checked
from vlp_bench.data.readers.split_names import is_of, of_another
from vlp_bench.data.records import MultipleChoice

LETTERS = ("A", "B", "C", "D")
TEXT_ENDS = (".txt", ".raw", ".tokens", ".jsonl", ".json", ".md")


def _wikitext(path: Path) -> str:
    """Rows as the hub's `wikitext` has them (a line with its end; nothing for an empty one), a blank line between.

    So do SparseGPT and Wanda before they cut the text into blocks.
    """
    text = checked.text_of(path)
    rows = [f"{row}\n" for row in text.removesuffix("\n").split("\n")]
    rows[-1] = rows[-1] if text.endswith("\n") else rows[-1].removesuffix("\n")
    return "\n\n".join(row if row.strip() else "" for row in rows)


def _lines(path: Path) -> str:
    """`{"text": ...}` a line, a blank line between two."""
    told = checked.load_lines(path)
    return "\n\n".join(checked.parsed_entries(path, told, lambda record: checked.text(record, "text")))


CORPORA: Mapping[str, Callable[[Path], str]] = {"wikitext": _wikitext, "text": checked.text_of, "jsonl": _lines}
"""Format -> what reads a file of it as one text."""


def read_corpus(path: str | Path, form: str) -> str:
    """The text of a file.

    Args:
        form: wikitext (`wiki.test.raw`), text (as it stands) or jsonl (`{"text": ...}` a line).

    Raises:
        ValueError: no such file or format, or nothing in it.
    """
    if form not in CORPORA:
        raise ValueError(f"data.format={form}: there is no such format here; allowed: {', '.join(CORPORA)}")
    found = CORPORA[form](Path(path))
    if not found.strip():
        raise ValueError(f"{path} is empty; is the download complete?")
    return found


def corpus_file(root: Path, split: str) -> Path:
    """The one text file below a folder that has the split in its name, or the only one, if it has no other's.

    Raises:
        ValueError: none or several do; says what lies there.
    """
    files = sorted(file for file in root.iterdir() if file.suffix.lower() in TEXT_ENDS)
    named = [file for file in files if is_of(file.stem, split)]
    fitting = named or [file for file in files if len(files) == 1 and not of_another(file.stem, split)]
    if len(fitting) == 1:
        return fitting[0]
    there = ", ".join(file.name for file in (fitting or files)[:6]) or "none"
    raise ValueError(f"data.root={root}: which file is the text? Of those there ({there}) name one with data.test=FILE")


# MMLU


def read_mmlu(root: str | Path, split: str) -> list[MultipleChoice]:
    """`<split>/<subject>_<split>.csv` below a folder: question, four choices, the right letter; no line of headings.

    Subjects in the order of their names, questions in the order of their files.

    Raises:
        ValueError: no such folder or file, or a row of another form.
    """
    folder = Path(root) / split
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise ValueError(f"{folder} holds no .csv: MMLU's are dev/<subject>_dev.csv and test/<subject>_test.csv")
    return [question for file in files for question in _questions(file, file.stem.removesuffix(f"_{split}"))]


def _questions(file: Path, subject: str) -> Iterator[MultipleChoice]:
    reader = csv.reader(io.StringIO(checked.text_of(file)))
    for number, row in enumerate(reader):
        if len(row) != 6 or row[5].strip() not in LETTERS:
            raise ValueError(
                f"{file}, row {number}: expected question, four choices and one of A, B, C, D, got {checked.brief(row)}"
            )
        yield MultipleChoice(subject, row[0], (row[1], row[2], row[3], row[4]), LETTERS.index(row[5].strip()))
