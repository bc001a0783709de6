"""Keeps removed weights at exactly zero while the survivors are trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vlp_bench.models.stacks import stack_of
from vlp_bench.pruning.layers import parameters_by_name
from vlp_bench.pruning.masks.file_format import pack, unpack
from vlp_bench.pruning.masks.parameter_names import find_prefix
from vlp_bench.pruning.solution import check_fit, zero_removed

log = logging.getLogger(__name__)


class KeepPruned(pl.Callback):
    """A Lightning callback: the gradients of removed weights are zeroed before they are clipped and used.

    A weight that is zero, has a zero gradient and an optimiser state of zeros stays zero under SGD, Adam, weight decay,
    mixed precision, averaging and resume, so nothing is done after a step, unless the first one shows an optimiser that
    moves such weights: then they are zeroed again after each. Zeros are verified when training starts, also from a
    checkpoint, after every epoch, when it ends, and before testing. Checkpoints carry the masks, a bit per weight.

    Without Lightning: `attach(model)`, then `mask_gradients()` before each `optimizer.step()`, and `verify()`.

    Args:
        masks: by parameter name, True = kept, as in `Solution.masks`. None: those of the checkpoint that is resumed.
        prefix: what the trained module puts before these names, such as "model."; None: found by itself.
    """

    def __init__(self, masks: Mapping[str, Tensor] | None = None, *, prefix: str | None = None) -> None:
        if not isinstance(masks, Mapping | None):
            raise ValueError(
                f"masks are of type {type(masks).__name__}: masks by parameter name (solution.masks) are needed"
            )
        self.prefix = prefix
        self._shapes = {name: tuple(mask.shape) for name, mask in (masks or {}).items()}
        self._packed = {name: pack(_as_bool(name, mask)) for name, mask in (masks or {}).items()}
        self._kept: dict[str, tuple[nn.Parameter, Tensor]] = {}
        self._handles: list[RemovableHandle] = []
        self._zero_after_steps = False
        self._steps_seen = 0
        self._in_step = False

    @property
    def masks(self) -> dict[str, Tensor]:
        """The masks by the names they were given under, on the processor."""
        return {name: unpack(bits, self._shapes[name]) for name, bits in self._packed.items()}

    def attach(self, module: nn.Module) -> KeepPruned:
        """Finds the masked parameters of a module. Raises ValueError if there are no masks or they don't fit."""
        if not self._packed:
            raise ValueError("KeepPruned has no masks: pass Solution.masks, or resume a checkpoint that holds some")
        parameters, masks = parameters_by_name(module), self.masks
        prefix = find_prefix(list(masks), list(parameters)) if self.prefix is None else self.prefix
        named = {f"{prefix}{name}": mask for name, mask in masks.items()}
        own = check_fit(named, parameters)
        matching = {own[name]: mask for name, mask in named.items()}
        self._kept = _of_parameters(matching, dict(module.named_parameters(remove_duplicate=False)))
        return self

    def mask_gradients(self) -> None:
        """Zeroes the gradients of removed weights, in place, infinite ones too."""
        for parameter, mask in self._kept.values():
            if parameter.grad is not None:
                zero_removed(parameter.grad, mask)

    def zero(self) -> None:
        """Zeroes the removed weights, in place."""
        with torch.no_grad():
            for parameter, mask in self._kept.values():
                zero_removed(parameter, mask)

    def revived(self) -> dict[str, int]:
        """Parameters with removed weights that aren't zero, and how many."""
        if not self._kept:
            raise ValueError("KeepPruned watches no module: call attach(model) first")
        with torch.no_grad():
            counts = {n: torch.count_nonzero(p.detach().masked_fill(mask, 0)) for n, (p, mask) in self._kept.items()}
        return {name: int(count) for name, count in counts.items() if count}

    def verify(self, when: str = "now") -> None:
        """Raises ValueError, naming a layer, unless every removed weight is exactly zero."""
        if revived := self.revived():
            name, count = next(iter(revived.items()))
            raise ValueError(
                f"{sum(revived.values())} removed weights aren't zero {when}, {count} of them in {name!r}: "
                "call Solution.install(model) before training, and change no removed weight afterwards"
            )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finds the weights, and verifies them before anything is trained."""
        self.attach(pl_module).verify("when training starts")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Verifies again, now that every strategy has loaded its checkpoint, and listens to the optimisers."""
        self.attach(pl_module).verify("when training starts")
        self._steps_seen, self._in_step, self._zero_after_steps = 0, False, False
        self._handles = [optimizer.register_step_post_hook(self._after_step) for optimizer in trainer.optimizers]

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        """Comes after unscaling and before clipping, so that the norm is that of the surviving weights."""
        self.mask_gradients()
        self._steps_seen += not self._in_step  # a step may ask for gradients more than once
        self._in_step = True

    def _after_step(self, *_: Any) -> None:
        """An optimiser whose step calls that of its base class comes here from both."""
        self._in_step = False
        if self._steps_seen <= len(self._handles) and not self._zero_after_steps and self.revived():
            log.warning("the optimiser moves weights without gradient: removed weights are zeroed after every step")
            self._zero_after_steps = True
        if self._zero_after_steps:
            self.zero()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Verifies before the epoch is saved."""
        self.verify("at the end of an epoch")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Verifies what training leaves behind."""
        self.verify("when training ends")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Verifies what is tested, which may come from a checkpoint."""
        self.attach(pl_module).verify("when testing starts")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Lets go of optimisers and parameters."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._kept = [], {}

    def state_dict(self) -> dict[str, Any]:
        """The masks, packed."""
        return {"shapes": {name: list(shape) for name, shape in self._shapes.items()}, "masks": dict(self._packed)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the masks of a checkpoint. Raises ValueError if others were given already."""
        shapes = {name: tuple(shape) for name, shape in state_dict["shapes"].items()}
        packed = {name: bits.cpu() for name, bits in state_dict["masks"].items()}
        for name, bits in packed.items():
            unpack(bits, shapes[name])
        if self._packed:
            _refuse_others(self._packed, packed)
        self._shapes, self._packed = shapes, packed


def _refuse_others(given: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> None:
    names = sorted(set(given) ^ set(loaded)) or [n for n in given if not torch.equal(given[n], loaded[n])]
    if names:
        raise ValueError(
            f"the checkpoint was trained under other masks than the ones given ({names[0]!r} differs): "
            "resume with KeepPruned() to take the checkpoint's, or start anew"
        )


def _of_parameters(
    masks: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]
) -> dict[str, tuple[nn.Parameter, Tensor]]:
    """Parameters and their masks by name; the masks of slices make up that of their stack."""
    found: dict[str, tuple[nn.Parameter, Tensor]] = {}
    for name, mask in masks.items():
        stack, number = stack_of(name) or (name, None)
        parameter = parameters[stack]
        if number is None:
            found[name] = parameter, mask.to(parameter.device)
        else:
            whole = torch.ones_like(parameter, dtype=torch.bool)
            found.setdefault(stack, (parameter, whole))[1][number] = mask.to(parameter.device)
    return found


def _as_bool(name: str, mask: Tensor) -> Tensor:
    if mask.dtype != torch.bool and not ((mask == 0) | (mask == 1)).all():
        raise ValueError(f"the mask of {name!r} holds other values than 0 and 1")
    return mask.bool()
