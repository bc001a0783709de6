"""A number that a part of a pruner can't have is refused when the pruner is made, by its key, before any pass."""

from functools import partial

import pytest
from omegaconf import OmegaConf

from vlp_bench.pruning import catalogue, scores
from vlp_bench.pruning.allocation.ecoflap.allocators import BlockSensitivity
from vlp_bench.pruning.allocation.uniform import Uniform
from vlp_bench.pruning.choices import GROUPS, folder, generated, names
from vlp_bench.pruning.pruner import Pruner
from vlp_bench.pruning.schedule import linear
from vlp_bench.pruning.solvers.keep_top import KeepTop
from vlp_bench.pruning.values import least_squares


def numbers(node, path):
    """Key of every number in a description."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{path}.{key}")
        elif (isinstance(value, int | float) and not isinstance(value, bool)) or "steps" in str(value):
            yield f"{path}.{key}"


def every_number():
    for group in GROUPS:
        for choice in names(group):
            file = folder() / group / f"{choice}.yaml"
            node = OmegaConf.to_container(OmegaConf.load(file)) if file.is_file() else generated(group)[choice]
            yield from ((group, choice, key) for key in numbers(node, group))


@pytest.mark.parametrize("group, choice, key", list(every_number()))
def test_no_number_of_a_part_may_be_negative(group, choice, key):
    last = key.rpartition(".")[2]
    with pytest.raises(ValueError, match=rf"\b{last} must be .*, got -1$"):
        catalogue.load("wanda", {group: choice, key: -1}).check_sparsities([0.5])


@pytest.mark.parametrize("given", [0.0, -0.01, float("inf"), float("nan")])
def test_an_argument_that_is_bound_is_named_with_its_part(given):
    with pytest.raises(ValueError, match=rf"^values\.damping must be positive, got {given}$"):
        Pruner(allocate=Uniform(), solve=KeepTop(scores.magnitude), values=partial(least_squares, damping=given))


def test_the_fit_of_values_is_refused_before_it_runs():
    with pytest.raises(ValueError, match=r"^pruner 'wanda': values\.damping must be positive, got 0$"):
        catalogue.load("wanda", {"values": "least_squares", "values.damping": 0})


def test_a_score_bound_in_another():
    bound = partial(scores.inverted, score=partial(scores.ria, exponent=-0.5))
    with pytest.raises(ValueError, match=r"^solve\.score\.score\.exponent must be at least 0, got -0\.5$"):
        Pruner(allocate=Uniform(), solve=KeepTop(score=bound))


@pytest.mark.parametrize("name", ["ecoflap", "ecoflap_first", "tamp"])
def test_a_sparsity_above_the_most_that_a_group_loses(name):
    made = catalogue.load(name, {"allocate.max_sparsity": 0.4})
    made.check_sparsities([0.4])
    with pytest.raises(ValueError, match=r"^max_sparsity is 0\.4, below the sparsity of 0\.5 .* or null"):
        made.check_sparsities([0.4, 0.5])


def test_the_steps_on_the_way_count():
    made = Pruner(
        allocate=BlockSensitivity(max_sparsity=0.3), solve=KeepTop(scores.magnitude), schedule=partial(linear, steps=3)
    )
    made.check_sparsities([0.3])
    with pytest.raises(ValueError, match=r"max_sparsity is 0\.3, below the sparsity of 0\.4 that"):
        made.check_sparsities([0.6])
