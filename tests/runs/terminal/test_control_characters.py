"""What reaches the terminal."""

import io
import re

import pytest
from rich.table import Table

from vlp_bench.runs.terminal.console import Terminal


@pytest.mark.parametrize("hostile", ["\x1b[2J", "\x1b]0;owned\x07", "\x9b2J", "\r\x08", "\u202egnp.exe"])
def test_names_move_no_cursor(hostile):
    made = Terminal(file=io.StringIO(), highlight=False, force_terminal=True, width=40)
    table = Table()
    table.add_column(f"head{hostile}")
    table.add_row(f"cell{hostile}")
    made.print(f"name{hostile} [bold]x[/]")
    made.print(f"name{hostile}", markup=False, soft_wrap=True)
    made.print(table)
    text = re.sub(r"\x1b\[[0-9;]*m", "", made.file.getvalue())  # colours of our own
    assert not set(text) & set("\x1b\x07\x9b\r\x08\u202e")
    assert text.count("\N{REPLACEMENT CHARACTER}") >= 4 or hostile == "\r\x08"  # which rich leaves out


def test_lines_tabs_and_letters_are_as_they_were():
    made = Terminal(file=io.StringIO(), highlight=False, width=60)
    made.print("a\nb  ½ é 中 \N{NO-BREAK SPACE}ok", markup=False)
    assert made.file.getvalue() == "a\nb  ½ é 中 \N{NO-BREAK SPACE}ok\n"
