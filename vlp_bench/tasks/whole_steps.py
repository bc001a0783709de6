"""Optimiser steps of whole groups: what is left of an epoch's batches takes no step of its own."""

from dataclasses import dataclass

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn


@dataclass(eq=False)
class WholeSteps(Callback):
    """Ends an epoch after its last whole group of `accumulate_grad_batches`.

    Lightning would step with whatever is left, divided as if the group were whole: with 8 of 96 examples, at a twelfth
    of their gradient. Here they are left out; as every epoch has its own order, these are others each time. A training
    set below one group is a group by itself, and that is said once.

    Args:
        target: examples a step shall see (`recipe.target_batch`).
        at_a_time: examples a batch of all devices has.
    """

    target: int
    at_a_time: int

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Before the number of steps is asked for and before a loader has been told where to go on."""
        if stage != "fit":
            return
        loader = trainer.fit_loop._data_source.dataloader()
        batches, limit = len(loader), trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        if 0 < batches < trainer.accumulate_grad_batches:
            trainer.accumulate_grad_batches = batches
            seen = batches * self.at_a_time
            rank_zero_warn(
                f"the training set makes {seen} examples in whole batches, fewer than "
                f"recipe.target_batch={self.target}: each epoch is one step of {seen}"
            )
        trainer.limit_train_batches = batches - batches % trainer.accumulate_grad_batches
