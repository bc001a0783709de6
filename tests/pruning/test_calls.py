"""A part of one's own with other arguments than it is called with is refused when the pruner is made."""

from functools import partial, wraps

import pytest

from vlp_bench.pruning import scores
from vlp_bench.pruning.allocation.global_threshold import GlobalThreshold
from vlp_bench.pruning.allocation.uniform import Uniform
from vlp_bench.pruning.pruner import Pruner
from vlp_bench.pruning.schedule import Reviving
from vlp_bench.pruning.solvers.keep_top import KeepTop
from vlp_bench.pruning.structured import scores as unit_scores
from vlp_bench.pruning.structured.budgets import UnitBudgets
from vlp_bench.pruning.structured.keep_units import KeepUnits

GIVEN = {"allocate": Uniform(), "solve": KeepTop(score=scores.magnitude)}


def none():
    """Takes nothing."""


def many(a, b, c, *, d):
    """Takes too much."""


@pytest.mark.parametrize("part", [none, many])
@pytest.mark.parametrize(
    ("key", "made", "called"),
    [
        ("allocate", lambda part: {"allocate": part}, "(calibration, sparsity)"),
        ("solve", lambda part: {"solve": part}, "(calibration, budgets)"),
        ("schedule", lambda part: {"schedule": part}, "(sparsity)"),
        ("schedule.path", lambda part: {"schedule": Reviving(path=part)}, "(sparsity)"),
        ("sweep", lambda part: {"sweep": part}, "(solve, calibration, budgets)"),
        ("tokens", lambda part: {"tokens": part}, "(calibration)"),
        ("values", lambda part: {"values": part}, "(calibration, masks)"),
        ("solve.score", lambda part: {"solve": KeepTop(score=part)}, "(layer, calibration)"),
        ("allocate.score", lambda part: {"allocate": GlobalThreshold(score=part)}, "(layer, calibration)"),
        ("allocate.score", lambda part: {"allocate": UnitBudgets(score=part)}, "(group, calibration)"),
        ("solve.score", lambda part: {"solve": KeepUnits(score=part)}, "(group, calibration)"),
    ],
)
def test_it_is_said_what_a_part_is_called_with(part, key, made, called):
    takes = {none: "none()", many: "many(a, b, c, *, d)"}[part]
    with pytest.raises(ValueError, match=r"needs a default, or functools\.partial$") as error:
        Pruner(**GIVEN | made(part))
    assert str(error.value).startswith(f"{key}: {takes} is called as {part.__name__}{called}: ")


def test_inside_a_partial_too():
    with pytest.raises(ValueError, match=r"^solve\.score\.score: none\(\) is called as none\(layer, calibration\)"):
        Pruner(**GIVEN | {"solve": KeepUnits(score=partial(unit_scores.mean_score, score=none))})


def test_what_takes_more_may_be_bound_or_have_defaults():
    def mine(layer, calibration, power, size=1):
        """A score."""

    def wrapped(score):
        @wraps(score)
        def inner(*args):
            return score(*args, 1)

        return inner

    for part in (partial(mine, power=2), wrapped(mine), lambda *args: None):
        Pruner(**GIVEN | {"solve": KeepTop(score=part)})
    Pruner(**GIVEN | {"solve": KeepUnits(score=unit_scores.magnitude_sp)})
    with pytest.raises(ValueError, match="missing a required argument: 'power'"):
        Pruner(**GIVEN | {"solve": KeepTop(score=mine)})
