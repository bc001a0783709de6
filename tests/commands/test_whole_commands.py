"""Whole commands with wrong words in their short form; `benchmarks/endurance/whole_commands.py` has them all."""

import random

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


def test_every_verb_gets_wrong_words_and_every_damage_changes_its_file():
    from vlp_bench.__main__ import verbs

    tried = {command.split(" ")[0] for command, _ in whole.wordings()}
    assert set(verbs()) - {"run"} <= tried
    data = b'{"value": 50.0, "metric": "txt_r1", "rows": 3}\n' * 40
    for damage in whole.DAMAGES:
        assert sum(damage(data, random.Random(seed)) != data for seed in range(10)) >= 8, damage


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["words", "files"])
def test_no_command_ends_in_a_traceback_a_hang_or_a_lie(kind, tmp_path):
    whole.warm()
    counts, faults = whole.tried(kind, whole.prepared(tmp_path), 60, 1, lambda text: None)
    assert faults == []
    assert sum(counts.values()) == 60
    assert counts["refused"] > 10
