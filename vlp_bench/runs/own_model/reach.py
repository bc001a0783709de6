"""Which layers the calibration data do not reach: they stay dense, and it is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from vlp_bench.models.checkpoints.hub import SCARCE
from vlp_bench.models.foreign.adapter import TransformersAdapter
from vlp_bench.pruning.statistics.batch_errors import named
from vlp_bench.pruning.statistics.batches import moved_to
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.inputs import InputNorms, InputWatch
from vlp_bench.pruning.statistics.token_masks import TokenMasks
from vlp_bench.pruning.statistics.uncalled import READ_UNCALLED

UNCALLED = "no calibration batch reaches it"
UNSEEN = f"{READ_UNCALLED}, so what reaches it can't be seen"
UNLEARNT = "the loss gives it no gradient"


def unreached(model: nn.Module, adapter: TransformersAdapter, batches: Sequence[Any], reads: str) -> Mapping[str, str]:
    """Layers that a pruner would refuse: name -> why.

    Args:
        model: in evaluation mode; stays as it is.
        adapter: its answers.
        batches: gone through until every layer has been reached.
        reads: what the pruner reads, see `Needs.reads`.
    """
    if reads == "weights":
        return {}
    calibration = Calibration(model, batches, adapter)
    if reads == "activations":
        missing = _uncalled(calibration)
        read = calibration.read_uncalled(missing)
        return {name: UNSEEN if name in read else UNCALLED for name in missing}
    return dict.fromkeys(_unlearnt(calibration, len(batches)), UNLEARNT)


def takes_padding(model: nn.Module, adapter: TransformersAdapter, batches: Sequence[Any]) -> bool:
    """Whether what reaches the layers can be seen where a batch has padding, by the first that has any."""
    padded = (batch for batch in batches for key, mask in batch.items() if key.endswith("mask") and not mask.all())
    batch = next(padded, None)
    if batch is None:
        return True
    calibration = Calibration(model, [batch], adapter)
    watch = InputWatch(calibration.layers.values(), [InputNorms()], lambda _: None)
    part = moved_to(batch, next(iter(calibration.layers.values())).weight.device)
    watch.new_part(TokenMasks(calibration.adapter, model, part))
    try:
        with watch.watching(), torch.no_grad():
            calibration.adapter.encode(model, part)
    except SCARCE:
        raise
    except Exception:  # of whatever kind: a layer's padding can't be known, or the model takes none
        return False
    return True


def _uncalled(calibration: Calibration) -> list[str]:
    missing = dict.fromkeys(calibration.layers)
    watch = InputWatch(calibration.layers.values(), (), lambda event: missing.pop(event.layer, None))
    device = next(iter(calibration.layers.values())).weight.device
    encode = named(calibration.model, lambda _, parts: calibration.adapter.encode(calibration.model, *parts))
    with watch.watching(), torch.no_grad():
        for number, batch in enumerate(calibration.batches or ()):
            encode(number, [moved_to(batch, device)])
            if not missing:
                break
    return list(missing)


def _unlearnt(calibration: Calibration, batches: int) -> list[str]:
    missing = dict.fromkeys(calibration.layers)
    for gradients in islice(calibration.gradients_of_batches(), batches):  # after the last it refuses what is missing
        missing = {name: None for name in missing if not _is_in(gradients, name)}
        if not missing:
            break
    return list(missing)


def _is_in(gradients: Mapping[str, Tensor], name: str) -> bool:
    """Whether there is a gradient; of an expert that was sent no token, `experts.up_proj[3]`, it is zero."""
    gradient = gradients.get(name)
    return gradient is not None and (not name.endswith("]") or bool(gradient.any()))
