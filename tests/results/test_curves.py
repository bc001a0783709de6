"""Curves: numbers by column; what is torn is left out, and what is no table is refused by its name."""

import logging

import pytest

from vlp_bench.results import curves

WHOLE = "epoch,step,train/loss,val/txt_r1\n0,1,2.5,\n0,1,,40\n1,2,1.25,\n"


def written(folder, content):
    file = folder / "metrics.csv"
    file.write_text(content)
    return file


def test_lines_are_numbers_by_column(tmp_path):
    found = curves.read(written(tmp_path, WHOLE))
    assert list(found["step"]) == [1, 1, 2]
    assert str(found["step"].dtype) == "int64"
    assert list(found["train/loss"].dropna()) == [2.5, 1.25]
    assert list(found["val/txt_r1"].dropna()) == [40.0]


def test_a_file_in_which_nothing_was_logged_is_empty(tmp_path):
    assert curves.read(written(tmp_path, "")).empty
    assert curves.read(written(tmp_path, "epoch,step\n")).empty


def test_a_torn_line_is_left_out_and_told(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert list(curves.read(written(tmp_path, WHOLE[:-4]))["step"]) == [1, 1]
    assert "its last line is torn" in caplog.text


def test_lines_that_stand_twice_are_told(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        curves.read(written(tmp_path, WHOLE + "1,2,1.25,\n"))
    assert "1 of 4 lines stand in it twice" in caplog.text


@pytest.mark.parametrize(
    "content",
    ["epoch,step\n0,1,2\n", "epoch,step\n0,x\n", "step,step\n1,1\n", "epoch,st\x1bep\n1,1\n", "epoch,step\n0,\n",
     "epoch\n0\n", "epoch,step\n0,1.5\n", "epoch,step\n0,\"1\n"],
)  # fmt: skip
def test_what_is_no_table_of_numbers_is_refused(tmp_path, content):
    with pytest.raises(ValueError, match=r"metrics\.csv is damaged .*; delete it, or compute the run again"):
        curves.read(written(tmp_path, content))
