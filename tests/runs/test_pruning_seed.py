"""The seed of what a pruner is shown is not the seed of fine-tuning, and the two can be crossed."""

import pytest

from vlp_bench.runs.terminal.errors import UserError


def test_a_pruning_seed_decides_the_calibration_and_nothing_else(specified):
    runs = {(p, s): specified("pruner=snip", f"pruning_seed={p}", f"seed={s}") for p in (0, 1) for s in (0, 1)}
    assert len({found.run for found in runs.values()}) == 4
    for (pruning, seed), found in runs.items():
        assert found.config["data"]["calibration"]["seed"] == pruning
        assert found.config["data"]["seed"] == found.config["task"]["seed"] == seed


def test_runs_of_two_pruning_seeds_are_not_paired(specified):
    assert specified("pruner=snip").setting != specified("pruner=snip", "pruning_seed=1").setting


def test_the_published_pruning_seed_is_the_default(specified):
    assert specified("pruner=snip", "pruning_seed=0").run == specified("pruner=snip").run


@pytest.mark.parametrize("value", ["-1", "half", "0.5"])
def test_a_seed_that_is_no_whole_number_is_refused(specified, value):
    with pytest.raises(UserError, match="pruning_seed"):
        specified(f"pruning_seed={value}")
