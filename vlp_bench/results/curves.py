"""What a run logged while it trained: Lightning's CSV file, a line for each time it logged."""

import logging
from collections import Counter
from pathlib import Path

import pandas as pd

_log = logging.getLogger(__name__)


def read(file: Path) -> pd.DataFrame:
    """The numbers by column, NaN where a line has none; empty if nothing was logged yet.

    A line without an end is left out, which is told, as are lines that stand twice.

    Raises:
        ValueError: the file is no table of numbers; the message names it.
    """
    try:
        text = file.read_text(encoding="utf-8")
        *whole, rest = text.split("\n")
        head, *lines = [line.split(",") for line in whole] or [[]]
        if len({*head}) < len(head) or any(len(line) != len(head) for line in lines):
            raise ValueError("its lines are not of one length")
        frame = pd.DataFrame([[float(cell or "nan") for cell in line] for line in lines], columns=head)
        if lines:
            if not all(map(str.isprintable, head)) or not bool(frame["step"].mod(1).eq(0).all()):
                raise ValueError("a step is no whole number, or a column has no name")
            frame["step"] = frame["step"].astype(int)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{file} is damaged ({error}); delete it, or compute the run again with force=true") from None
    if rest:
        _log.warning("%s: its last line is torn (cut off, or still being written) and left out", file)
    if again := len(lines) - len(Counter(map(tuple, lines))):
        _log.warning("%s: %d of %d lines stand in it twice", file, again, len(lines))
    return frame
