"""vlp_bench: prune a vision-language model once, fine-tune it anywhere, and know what it cost.

    import vlp_bench
    result = vlp_bench.prune(model, pruner="multiflow", sparsity=[0.63, 0.75, 0.9], calibration=batches)
    result[0.9].install(model)

Names are imported when they are first used: `import vlp_bench` is light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlp_bench.batch import Batch, Place
    from vlp_bench.models.checkpoints.pretrained import from_pretrained, save_pretrained
    from vlp_bench.models.foreign.adapter import TransformersAdapter
    from vlp_bench.pruning.adapter import Adapter, PlainAdapter
    from vlp_bench.pruning.keep_pruned import KeepPruned
    from vlp_bench.pruning.prune import prune
    from vlp_bench.pruning.pruner import Pruner
    from vlp_bench.pruning.solution import Solution, Solutions
    from vlp_bench.pruning.statistics.calibration import Calibration
    from vlp_bench.tasks.foreign.evaluate import evaluate

__version__ = "0.16.0"
__all__ = [
    "Adapter",
    "Batch",
    "Calibration",
    "KeepPruned",
    "Place",
    "PlainAdapter",
    "Pruner",
    "Solution",
    "Solutions",
    "TransformersAdapter",
    "evaluate",
    "from_pretrained",
    "prune",
    "save_pretrained",
]

_HOMES = {
    "Adapter": "vlp_bench.pruning.adapter",
    "Batch": "vlp_bench.batch",
    "Calibration": "vlp_bench.pruning.statistics.calibration",
    "KeepPruned": "vlp_bench.pruning.keep_pruned",
    "Place": "vlp_bench.batch",
    "PlainAdapter": "vlp_bench.pruning.adapter",
    "Pruner": "vlp_bench.pruning.pruner",
    "Solution": "vlp_bench.pruning.solution",
    "Solutions": "vlp_bench.pruning.solution",
    "TransformersAdapter": "vlp_bench.models.foreign.adapter",
    "evaluate": "vlp_bench.tasks.foreign.evaluate",
    "from_pretrained": "vlp_bench.models.checkpoints.pretrained",
    "prune": "vlp_bench.pruning.prune",
    "save_pretrained": "vlp_bench.models.checkpoints.pretrained",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vlp_bench' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
