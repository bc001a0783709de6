"""Help is quick and complete."""

import subprocess
import sys

import pytest

from vlp_bench.runs.terminal import conf
from vlp_bench.runs.terminal.help import help_text, no_experiment

HEAVY = {"torch", "lightning", "transformers", "pandas", "matplotlib", "hydra"}


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["+exp=xvlm_itr", "-h"], ["--version"]], ids=" ".join)
def test_help_imports_nothing_heavy(words):
    code = (
        f"import sys; sys.argv = ['vlp-bench', *{words!r}]; from vlp_bench.__main__ import main; main(); "
        f"sys.exit(', '.join({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
    assert "vlp_bench" in done.stdout
    assert ("usage: vlp-bench" in done.stdout) == (words != ["--version"])


@pytest.mark.parametrize("group", ["exp", "pruner", "benchmark"])
def test_everything_that_can_be_chosen_is_listed(group):
    lines = [line.split()[0] for line in help_text().splitlines() if line.startswith("  ") and line.split()]
    assert conf.choices(group)
    assert set(conf.choices(group)) <= set(lines)


@pytest.mark.parametrize("group", ["exp", "pruner", "benchmark", "recipe", "trainer", "logger"])
def test_every_choice_says_what_it_is(group):
    for choice in conf.choices(group):
        assert conf.blurb(group, choice), f"conf/{group}/{choice}.yaml starts without a comment"


def test_a_command_without_experiment_is_told_which_there_are():
    assert all(name in no_experiment() for name in conf.choices("exp"))


def test_the_closest_names_are_offered():
    assert conf.closest("multiflo", ["multiflow", "omp"]) == "; did you mean multiflow?"
    assert conf.closest("zzz", ["multiflow", "omp"]) == ""
