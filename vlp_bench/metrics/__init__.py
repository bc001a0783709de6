"""From predictions and references to numbers: pure functions, and torchmetrics' classes around them.

The classes work outside this project too, with Lightning or without, in one process or in several:

    from vlp_bench.metrics import CaptionMetrics, ClassAccuracy, Consistency, GalleryRecall, VQAAccuracy

They are imported when they are asked for, as torchmetrics takes seconds to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlp_bench.metrics.caption_scores import CaptionMetrics
    from vlp_bench.metrics.classification import ClassAccuracy
    from vlp_bench.metrics.consistency import Consistency
    from vlp_bench.metrics.recall import GalleryRecall
    from vlp_bench.metrics.vqa import VQAAccuracy

__all__ = ["CaptionMetrics", "ClassAccuracy", "Consistency", "GalleryRecall", "VQAAccuracy"]

_MODULES = {
    "CaptionMetrics": "caption_scores",
    "ClassAccuracy": "classification",
    "Consistency": "consistency",
    "GalleryRecall": "recall",
    "VQAAccuracy": "vqa",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
