"""Whole commands with wrong words in their short form; `benchmarks/endurance/whole_commands.py` has them all."""

import pytest

from benchmarks.endurance import whole_commands as whole
from benchmarks.endurance.whole_commands import FAULTS, Outcome, performed, verdict

WORDS = (
    "compare +exp=nope", "compare +exp=xvlm_itr workers=0", "experiment nope",
    "experiment table08_edges_nodes pruner=omp",
    "ridge +exp=xvlm_itr pruner=chita seed=5", "masks show nope", "export write nope x --as dense",
    "weights check nope",
    "data check nope.json", "gate --cases 0", "pretrain --threads 0", "list nope", "prune model=nope",
    "evaluate model=nope task=retrieval",
        "model show nope", "status nope", "report out=nope",
    "sync online=maybe", "rescore force=maybe", "repot out=x",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _imported():
    whole.warm()  # once for all forks


@pytest.mark.parametrize("words", WORDS)
def test_wrong_words_end_in_a_line(words, tmp_path):
    outcome = performed(words.split(), tmp_path)
    assert verdict(outcome, wrong=True) == "refused", outcome.text
    assert outcome.code in (1, 2)


@pytest.mark.parametrize(
    ("outcome", "wrong", "what"),
    [
        (Outcome(None, ""), True, "hang"),
        (Outcome(1, "Traceback (most recent call last):\n"), True, "traceback"),
        (Outcome(-11, ""), True, "traceback"),
        (Outcome(2, "error: a\x1b[2Jb"), True, "escape sequence"),
        (Outcome(2, " "), True, "silently wrong"),
        (Outcome(0, "fine"), True, "silently wrong"),
        (Outcome(0, "fine"), False, "accepted"),
        (Outcome(2, "error: a\nerror: b"), True, "more than a line"),
        (Outcome(2, "usage: x\nvlp-bench gate: error: a"), True, "refused"),
    ],
)
def test_what_counts_as_a_fault(outcome, wrong, what):
    assert verdict(outcome, wrong=wrong) == what
    assert (what in FAULTS) == (what not in ("accepted", "refused"))


def test_every_verb_gets_wrong_words():
    from vlp_bench.__main__ import verbs

    tried = {command.split(" ")[0] for command, _ in whole.wordings()}
    assert set(verbs()) - {"run"} <= tried


ONCE = {"": ["2 rows", "in 3 s"], "out/x.csv": ["a,1", "b,2"]}
AGAIN = ONCE | {"": ["2 rows", "in 4 s"]}


@pytest.mark.parametrize(
    ("found", "content", "what"),
    [
        (ONCE | {"": ["2 rows", "in 9 s"]}, b"c", "same"),  # what differs between two looks at one file is no value
        ({"": ["2 rows", "in 3 s"]}, b"c", "silently wrong"),  # written no more
        (ONCE | {"out/x.csv": ["a,1", "b,3"]}, b"c", "silently wrong"),
        (ONCE | {"out/x.csv": ["a,1"]}, b"c", "silently wrong"),
        (ONCE | {"out/x.csv": ["a,1", "rows.j", "sonl: line 2 is none"]}, b"c", "told"),
        (ONCE | {"": ["1 rows", "in 3 s", "error: rows.jsonl"]}, b"c", "told"),
        (ONCE | {"out/x.csv": ["a,1", "b,3"]}, b'{"a": 2}', "another file"),
    ],
)
def test_values_are_those_of_the_whole_file_or_something_is_said(tmp_path, found, content, what):
    contents = (b'{"a": 1}', content)
    outcome = Outcome(0, "\n".join(found[""]))
    got = whole.verdict_of_values(outcome, found, [ONCE, AGAIN], tmp_path / "rows.jsonl", contents, "lines")
    assert got == what
    refused = Outcome(2, "error: rows.jsonl: no")
    assert whole.verdict_of_values(refused, found, [ONCE], tmp_path / "rows.jsonl", contents, "lines") == "refused"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["words", "files"])
def test_no_command_ends_in_a_traceback_a_hang_or_a_lie(kind, tmp_path):
    whole.warm()
    counts, faults = whole.tried(kind, whole.prepared(tmp_path), 60, 1, lambda text: None)
    assert faults == []
    assert sum(counts.values()) >= 55  # a damage may change nothing
    assert counts["refused"] > 10
