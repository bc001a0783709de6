"""Commands that are given what is not there, or what cannot be: one line and exit code 2 (argparse's own included)."""

import importlib
import sys

import pytest

from vlp_bench.annotations import columns
from vlp_bench.runs import schema
from vlp_bench.runs.terminal.conf import choices
from vlp_bench.runs.terminal.errors import UserError

FILES = ("nofile", "text.txt", "empty.safetensors", "bad.safetensors", "bad.pth", "folder", "run", "", "\0", "x" * 5000,
         "pkg://nope/x", "pkg://vlp_bench/nofile", "bad.safetensors/x")  # fmt: skip
OF_FILES = {
    "masks": (["show", "{}"], ["diff", "{}", "{}"], ["convert", "{}", "o.safetensors"], ["convert", "{}", "o.txt"]),
    "weights": (["check", "{}"],),
    "export": (["write", "{}", "o.safetensors", "--as", "packed"], ["report", "{}", "--tokens", "½"], ["report", "{}"]),
    "report": (["out={}"], ["exp={}"]),
    "rescore": (["out={}"],),
    "wandb_sync": (["out={}"],),
}
WORDS = ("examples=½", "examples=²", "examples=-1", "examples=", "weights=maybe", "force=5", "online=x", "nonsense=1",
         "out", "=", "--nope", "+exp=x", "${x}", "exp=[a")  # fmt: skip


@pytest.fixture
def ended(tmp_path, monkeypatch, capsys):
    """Command and words -> what it says when it ends with a mistake of the user's."""
    monkeypatch.chdir(tmp_path)
    for name, content in (("text.txt", b"hello"), ("empty.safetensors", b""), ("bad.safetensors", b"\xff" * 100),
                          ("bad.pth", b"PK\x03\x04nonsense")):  # fmt: skip
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/best.ckpt").write_bytes(b"abc")
    (tmp_path / "run/rows.jsonl").write_text("x\n")

    def end(command, words):
        main = importlib.import_module(f"vlp_bench.commands.{command}").main
        monkeypatch.setattr(sys, "argv", [command, *words])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code in (1, 2), words
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return said.err

    return end


@pytest.mark.parametrize("command", OF_FILES)
@pytest.mark.parametrize("file", FILES, ids=range(len(FILES)))
def test_files_that_are_none(ended, command, file):
    for words in OF_FILES[command]:
        lines = [line for line in ended(command, [word.format(file) for word in words]).splitlines() if line]
        assert lines[-1].startswith(("error: ", "python -m")), lines
        assert sum(line.startswith("error: ") for line in lines) <= 1


@pytest.mark.parametrize("command", ["report", "rescore", "wandb_sync"])
@pytest.mark.parametrize("word", WORDS)
def test_words_that_are_none(ended, command, word):
    [line] = ended(command, [word]).splitlines()
    assert word in line or "no " in line


def test_a_misspelt_key_is_guessed(ended):
    assert "did you mean baseline?" in ended("report", ["baselin=omp"])


@pytest.mark.parametrize(
    "part, group", [("value", "values"), ("alocate", "allocate"), ("solver", "solve"), ("schedules", "schedule")]
)
def test_a_misspelt_part_of_a_pruner_is_answered_with_its_choices(part, group):
    with pytest.raises(UserError) as error:
        schema._check_record(
            {f"pruner/{part}": "x", **dict.fromkeys(columns(schema.Configuration).required)}, schema.Configuration, ""
        )
    said = str(error.value)
    assert said.startswith(f"pruner/{part}=")
    assert f": a pruner has no {part}; its parts are allocate, solve" in said
    assert said.endswith(f"; did you mean pruner/{group}? It is one of {', '.join(choices(f'pruner/{group}'))}")
