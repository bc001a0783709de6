"""Numbers among the options of a command."""

import argparse

import pytest

from vlp_bench.commands import gate, pretrain, pretrain_dino
from vlp_bench.runs.terminal.numbers import positive, whole


@pytest.mark.parametrize("text", ["0", "-5", "1.5", "", "abc", "½", "٣", "1_0", " 1", "9" * 5000, "4294967296"])
def test_what_is_no_count_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected a whole number of at least 1, got"):
        whole(1)(text)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e400", "abc", ""])
def test_what_is_no_rate_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected a number above 0, got"):
        positive(text)


def test_what_is_one_is_taken():
    assert (whole(1)("1"), whole(0)("0"), positive("1e-3")) == (1, 0, 0.001)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (gate, ["--cases", "0"]), (gate, ["--cases", "-5"]), (pretrain, ["--batch-size", "0"]),
        (pretrain, ["--threads", "0"]), (pretrain, ["--probe-every", "0"]), (pretrain, ["--lr", "nan"]),
        (pretrain, ["--steps", "-1"]), (pretrain_dino, ["--steps", "0"]), (pretrain_dino, ["--seed", "-1"]),
    ],
)  # fmt: skip
def test_commands_say_so_before_they_begin(command, words, capsys):
    with pytest.raises(SystemExit) as ended:
        command.parser().parse_args(words)
    assert ended.value.code == 2
    assert f"error: argument {words[0]}: expected a" in capsys.readouterr().err
