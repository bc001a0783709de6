"""The recipe's part of the trainer, and the loggers."""

import pytest

from vlp_bench.runs.recipe import Recipe


def test_the_target_batch_is_reached_by_accumulating():
    arguments = Recipe(2, 32, 1.0).trainer_arguments(8)
    [whole] = arguments.pop("callbacks")
    assert (whole.target, whole.at_a_time) == (32, 8)
    assert arguments == {"max_epochs": 2, "accumulate_grad_batches": 4, "gradient_clip_val": 1.0}
    assert Recipe(2, 32).trainer_arguments(8, devices=2, nodes=2)["accumulate_grad_batches"] == 1


def test_a_target_batch_that_cannot_be_reached_is_refused():
    with pytest.raises(ValueError, match="target batch of 32"):
        Recipe(1, 32).trainer_arguments(5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"epochs": -1, "target_batch": 8}, "recipe.epochs must be at least 0, got -1"),
        ({"epochs": 1, "target_batch": 0}, "recipe.target_batch must be at least 1, got 0"),
        ({"epochs": 1, "target_batch": 8, "clip": 0.0}, "recipe.clip must be above 0"),
    ],
)
def test_a_value_out_of_range_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        Recipe(**arguments)
