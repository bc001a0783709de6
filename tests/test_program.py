"""`vlp-bench VERB`: what it lists, what it dispatches to, and that nothing it prints breaks a name in two."""

import contextlib
import logging
import shutil
import subprocess
import sys

import pytest
import torch
from rich.table import Table
from torch import nn

import vlp_bench
from vlp_bench import __main__ as program
from vlp_bench.commands import list as lists
from vlp_bench.pruning import catalogue
from vlp_bench.pruning.needs import needs_of
from vlp_bench.runs.terminal import conf
from vlp_bench.runs.terminal.console import columns, console, print_help, print_table

VERBS = {
    *("run", "compare", "experiment", "report", "status", "masks", "export", "data", "weights", "rescore", "ridge"),
    *("gate", "pretrain", "sync", "list", "prune", "model"),
}


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["vlp-bench", *words])
    program.main()


def test_every_verb_is_listed_with_one_line(monkeypatch, capsys):
    monkeypatch.setattr(console, "_width", 80)
    call(monkeypatch, "--help")
    lines = capsys.readouterr().out.splitlines()
    listed = {line.split()[0] for line in lines if line.startswith("  ")}
    assert listed >= VERBS
    assert set(program.verbs()) <= listed
    assert len([line for line in lines if line.startswith(" " * 15)]) == 0  # none needs a second line


@pytest.mark.parametrize("verb", sorted(program.verbs()))
def test_every_verb_has_help(monkeypatch, capsys, verb):
    with contextlib.suppress(SystemExit):  # argparse ends so
        call(monkeypatch, verb, "--help")
    assert f"vlp-bench {verb}" in capsys.readouterr().out


def test_the_version_is_ours(monkeypatch, capsys):
    call(monkeypatch, "--version")
    assert capsys.readouterr().out == f"vlp_bench {vlp_bench.__version__}\n"


def test_a_misspelt_verb_is_one_line(monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        call(monkeypatch, "statsu")
    assert end.value.code == 2
    assert "statsu: there is no such verb; did you mean status?" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["+exp=xvlm_itr"], ["run", "+exp=xvlm_itr"], ["-m", "+exp=xvlm_itr", "seed=0,1"]])
def test_words_without_a_verb_are_a_run(monkeypatch, words):
    seen = []
    monkeypatch.setattr("vlp_bench.runs.launch.launch", seen.append)
    call(monkeypatch, *words)
    assert seen == [words[words[0] == "run" :]]


def test_both_ways_to_start_it_do_the_same():
    said = [
        subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=True).stdout
        for words in (["vlp_bench", "list", "verbs"], ["vlp_bench.commands.list", "verbs"])
    ]
    assert said[0] == said[1]
    assert said[0].split() == list(program.verbs())


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.slow] if kind in ("tasks", "data") else [])  # made as those of models
        for kind in sorted(set(lists.KINDS) - {"verbs"})
    ],
)
def test_lists_name_everything_there_is(monkeypatch, capsys, kind):
    monkeypatch.setattr(console, "_width", 60)
    monkeypatch.delenv("COLUMNS", raising=False)  # a pipe is as wide as its lines
    call(monkeypatch, "list", kind)
    group = {"experiments": "exp", "data": "data"}.get(kind, kind.removesuffix("s"))
    named = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line[:1].strip()}
    assert set(conf.choices(group)) <= named


def test_an_unknown_list_is_refused(monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        call(monkeypatch, "list", "pruner")
    assert end.value.code == 2
    assert "did you mean pruners?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, reads, cost",
    [
        ("dense", "weights", "no pass"),
        ("omp", "weights", "no pass"),
        ("lamp", "weights", "no pass"),
        ("multiflow", "activations", "one pass"),
        ("multiflow_edges", "weights", "no pass"),  # |w| alone
        ("snip", "gradients", "one pass"),
        ("obd", "gradients", "few passes"),  # three steps
        ("itersnip", "gradients", "many passes"),
        ("tamt", "training", "one pass"),
    ],
)
def test_what_a_pruner_needs(name, reads, cost):
    needs = needs_of(catalogue.load(name))
    assert (needs.reads, needs.cost) == (reads, cost)


@pytest.mark.parametrize("name", catalogue.names())
def test_a_pruners_yaml_states_what_it_needs(name):
    needs = needs_of(catalogue.load(name))
    assert conf.stated_needs(name) == (needs.reads, needs.cost)


def test_a_pruner_that_does_not_state_its_needs_is_run(monkeypatch, tmp_path):
    copy = shutil.copytree(conf.conf_folder(), tmp_path / "conf")
    (copy / "pruner" / "own.yaml").write_text(
        (copy / "pruner" / "snip.yaml").read_text(encoding="utf-8").replace("# Needs: gradients, one pass.\n", "")
    )
    for module in ("vlp_bench.runs.terminal.conf", "vlp_bench.pruning.choices"):
        monkeypatch.setattr(f"{module}.conf_folder", lambda: copy)
    rows = {row[0]: row[1:3] for row in lists.pruners()}
    assert rows["own"] == rows["snip"] == ("gradients", "one pass")


def test_needs_are_counted_without_a_trace():
    before = torch.random.get_rng_state()
    needs_of(catalogue.load("tamt"))
    assert before.equal(torch.random.get_rng_state())
    parameter = nn.Parameter(torch.ones(1))
    parameter.grad = torch.ones(1)
    torch.optim.SGD([parameter], lr=1.0).step()  # no hook is left behind
    assert parameter.item() == 0.0


def test_needs_say_nothing_of_a_network_nobody_asked_about(caplog):
    needs_of(catalogue.load("magnitude_sp"))  # whole units of five layers miss 50 %
    assert not caplog.records
    logging.getLogger("vlp_bench").warning("heard again")
    assert caplog.messages == ["heard again"]


# What is printed


def test_help_is_folded_between_words_and_commands_are_not(monkeypatch, capsys):
    monkeypatch.setattr(console, "_width", 30)
    command = "    vlp-bench compare +exp=xvlm_itr pruner=dense,omp,multiflow sparsity=0.63,0.9"
    print_help(f"A sentence that says `vlp-bench run +exp=xvlm_itr` in the middle of it.\n\n{command}")
    lines = capsys.readouterr().out.splitlines()
    assert command in lines
    assert any("`vlp-bench run +exp=xvlm_itr`" in line for line in lines)
    assert lines[0] == "A sentence that says"


def test_names_stand_beside_folded_texts():
    assert columns([("a", "one two"), ("long", "three")], 10) == ["  a     one two", "  long  three"]
    assert columns([("a", "word " * 8)], 20)[1].startswith("     word")


def test_tables_keep_the_columns_that_must_not_break(monkeypatch, capsys):
    monkeypatch.setattr(console, "_width", 20)
    table = Table(box=None)
    table.add_column("run", no_wrap=True)
    table.add_column("why")
    table.add_row("xvlm_itr-mini-omp-0.5-seed4-0c6bc0235f", "a long reason")
    print_table(table)
    assert "xvlm_itr-mini-omp-0.5-seed4-0c6bc0235f" in capsys.readouterr().out


def test_a_list_is_no_wider_than_the_terminal(monkeypatch, capsys):
    monkeypatch.setattr(console, "_width", 50)
    monkeypatch.setenv("COLUMNS", "50")
    call(monkeypatch, "list", "models")
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if len(line.split()) > 1) <= 50  # one word is never broken
    names = [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "]
    assert names == conf.choices("model")
    assert all("; " in line for line in lines if line.startswith("  ") and line[2] != " ")  # needs, and what it does


def test_a_table_in_a_pipe_has_a_line_for_each_row(monkeypatch, capsys):
    table = Table(box=None, pad_edge=False)
    table.add_column("pruner", no_wrap=True)
    table.add_column("what it does")
    table.add_row("omp", "word " * 60)
    monkeypatch.setattr(console, "_width", None)
    monkeypatch.delenv("COLUMNS", raising=False)
    print_table(table)
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["pruner", "what", "it", "does"], ["omp", *["word"] * 60],
    ]  # fmt: skip
    monkeypatch.setenv("COLUMNS", "60")
    print_table(table)
    assert len(capsys.readouterr().out.splitlines()) > 4
