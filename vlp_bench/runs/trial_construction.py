"""What can be wrong in a run's parts is found before anything is computed: each is constructed once, but for the model.

A task takes a pruned model, so it is constructed up to the point where it would have one pruned.
"""

from collections.abc import Iterable

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch import nn

from vlp_bench.construct import construct, maker
from vlp_bench.pruning.pruner import Pruner
from vlp_bench.runs.device import trainer_settings
from vlp_bench.runs.finetune import quiet
from vlp_bench.runs.process_plan import Plan
from vlp_bench.runs.recipe import Recipe
from vlp_bench.runs.schema import check_parts
from vlp_bench.runs.specification import Specification
from vlp_bench.runs.terminal.errors import UserError


class _Enough(Exception):
    """The task would prune now."""


def construct_all(specification: Specification, sparsities: Iterable[float] = ()) -> None:
    """Construct pruner, recipe, trainer and task from a specification, and throw them away.

    Args:
        sparsities: those that the pruner is asked for, if they are not the specification's alone.

    Raises:
        UserError: an argument its constructor does not have, or has of another kind.
        ValueError: what a constructor says of its arguments.
    """
    config = specification.config
    check_parts(config)
    pruner = construct(config["pruner"], "pruner", config["allow"])
    if not callable(getattr(pruner, "prune", None)):
        raise UserError(f"pruner._target_={config['pruner']['_target_']}: no pruner; choose one with pruner=NAME")
    if isinstance(pruner, Pruner):
        pruner.check_sparsities([*sparsities] or [config["sparsity"]])
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
            made = maker(trainer_settings(config) | alone, "trainer", config["allow"])(
                logger=False, enable_checkpointing=False
            )
        except (ValueError, MisconfigurationException) as error:
            raise UserError(f"trainer: {' '.join(str(error).split())}") from error
    _check_trainer(made, recipe.epochs)


def _check_trainer(trainer: Trainer, epochs: int) -> None:
    """What Lightning takes and no run can end well with: nothing trained on, never validated, nothing tested."""
    parts = ("limit_train_batches", "limit_val_batches") if epochs else ()
    for name in (*parts, "limit_test_batches"):
        if not getattr(trainer, name):
            raise UserError(f"trainer.{name}=0: a run needs at least one batch; recipe.epochs=0 trains nothing")
    every = trainer.check_val_every_n_epoch
    if epochs and every is not None and every > epochs:
        raise UserError(
            f"trainer.check_val_every_n_epoch={every}: with recipe.epochs={epochs} no epoch would be validated, and "
            f"the best one is tested; at most {epochs}"
        )
    steps = getattr(trainer, "log_every_n_steps", 0)
    if steps < 0:
        raise UserError(f"trainer.log_every_n_steps={steps}: expected 0 (never) or more steps")


def _stop(model: nn.Module) -> None:
    raise _Enough
