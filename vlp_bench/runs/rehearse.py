"""What can be wrong in a run's parts is found before anything is computed: each is constructed once, but for the model.

A task takes a pruned model, so it is constructed up to the point where it would have one pruned.
"""

from typing import Any

from torch import nn

from vlp_bench.construct import construct, maker
from vlp_bench.runs.errors import UserError
from vlp_bench.runs.process_plan import Plan
from vlp_bench.runs.recipe import Recipe
from vlp_bench.runs.schema import check_parts
from vlp_bench.runs.specification import Specification


class _Enough(Exception):
    """The task would prune now."""


def rehearse(specification: Specification) -> None:
    """Construct pruner, recipe and task from a specification, and throw them away.

    Raises:
        UserError: an argument its constructor does not have, or has of another kind.
        ValueError: what a constructor says of its arguments.
    """
    config = specification.config
    check_parts(config)
    pruner = construct(config["pruner"], "pruner", config["allow"])
    if not callable(getattr(pruner, "prune", None)):
        raise UserError(f"pruner._target_={config['pruner']['_target_']}: no pruner; choose one with pruner=NAME")
    recipe: Recipe = construct(config["recipe"], "recipe", config["allow"])
    plan = Plan.of(config)
    recipe.trainer_arguments(config["data"].get("batch_size", recipe.target_batch), plan.devices, plan.nodes)
    try:
        maker(config["task"], "task", config["allow"])(model=nn.Module(), pruner=_stop)
    except _Enough:
        pass
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith("task") else f"task: {error}") from error


def _stop(model: Any) -> None:
    raise _Enough
