"""Says once that a model which looks like one of several modalities is taken for one of a single modality."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable

from vlp_bench.pruning.said_once import warn_once
from vlp_bench.pruning.statistics.calibration import Calibration

log = logging.getLogger(__name__)
TOWER = re.compile(r"vision|visual|image|text|language|audio|speech|qformer|q_former|connector|projector|multi_modal")
ONE = "all"  # the modality that `PlainAdapter` gives


def warn_of_towers(calibration: Calibration) -> None:
    """To be called by what gives each modality a budget of its own; silent where an adapter tells modalities apart."""
    layers = calibration.layers.values()
    if {layer.place.modality for layer in layers} == {ONE} and len(found := towers(calibration.layers)) > 1:
        warn_once(
            log,
            calibration.model,
            f"{', '.join(found)} look like modalities of their own, but all layers compete as if they were one; "
            "vlp_bench.TransformersAdapter(model), or an adapter of your own with place(), tells them apart",
        )


def towers(names: Iterable[str]) -> list[str]:
    """The outermost modules that are called after a modality and hold several of the layers."""
    paths = [name.split(".")[:-1] for name in names]
    outermost = [(path, next((i for i, part in enumerate(path) if TOWER.search(part)), None)) for path in paths]
    held = Counter(".".join(path[: i + 1]) for path, i in outermost if i is not None)
    return [tower for tower, layers in held.items() if layers > 1]
