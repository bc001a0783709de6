"""What can be wrong in a run's parts is found before anything is computed: each is constructed once, but for the model.

A task takes a pruned model, so it is constructed up to the point where it would have one pruned.
"""

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from vlp_bench.construct import construct, maker
from vlp_bench.runs.finetune import quiet
from vlp_bench.runs.process_plan import Plan
from vlp_bench.runs.recipe import Recipe
from vlp_bench.runs.schema import check_parts
from vlp_bench.runs.specification import Specification
from vlp_bench.runs.terminal.errors import UserError


class _Enough(Exception):
    """The task would prune now."""


def construct_all(specification: Specification) -> None:
    """Construct pruner, recipe, trainer and task from a specification, and throw them away.

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
    _rehearse_trainer(specification, recipe)
    try:
        maker(config["task"], "task", config["allow"])(model=nn.Module(), pruner=_stop)
    except _Enough:
        pass
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith("task") else f"task: {error}") from error


def _rehearse_trainer(specification: Specification, recipe: Recipe) -> None:
    """Construct the Trainer on one device, as its other devices may be those of other processes."""
    config, plan = specification.config, Plan.of(specification)
    recipe.trainer_arguments(plan.batch_size or recipe.target_batch, plan.devices, plan.nodes)
    alone = {"devices": 1, "num_nodes": 1, "strategy": "auto"}
    with quiet():
        try:
            maker(config["trainer"] | alone, "trainer", config["allow"])(logger=False, enable_checkpointing=False)
        except (ValueError, MisconfigurationException) as error:
            raise UserError(f"trainer: {' '.join(str(error).split())}") from error


def _stop(model: nn.Module) -> None:
    raise _Enough
