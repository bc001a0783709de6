"""What pruners are called: with the pattern of their masks, where those are no single weights."""

import pytest

from vlp_bench.pruning import catalogue
from vlp_bench.pruning.pruner import describe
from vlp_bench.results.pruner_names import named, pattern_of


@pytest.mark.parametrize(
    ("pruner", "options", "called"),
    [
        ("wanda", {}, "wanda"),
        ("wanda", {"solve": "wanda_2_4"}, "wanda (2:4)"),
        ("sparsegpt", {"solve.within": "4:8"}, "sparsegpt (4:8)"),
        ("wanda_bias", {"solve.solve.within": "2:4"}, "wanda_bias (2:4)"),
        ("dsnot", {"solve.within": "2:4"}, "dsnot (2:4)"),
        ("dense", {"solve.within": "2:4"}, "dense"),
        ("flap", {}, "flap (units)"),
        ("upop", {}, "upop (units)"),
    ],
)
def test_names(pruner, options, called):
    assert named(pruner, describe(catalogue.load(pruner, options))) == called


def test_a_pattern_of_one_modality_is_said_with_it():
    settings = {"solve": {"_target_": "x.KeepTop", "within": {"vision": "2:4", "others": "output"}}}
    assert pattern_of(settings) == "vision 2:4"


@pytest.mark.parametrize("settings", [None, {}, {"solve": "random"}, {"solve": {"within": 3}}, {"inverted": {}}])
def test_what_says_nothing_has_no_pattern(settings):
    assert named("mine", settings) == "mine"


def test_the_methods_of_units_are_these():
    found = {name for name in catalogue.names() if pattern_of(describe(catalogue.load(name))) == "units"}
    assert found == {"flap", "magnitude_sp", "upop", "wanda_sp"}
