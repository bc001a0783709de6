"""What a pruner can't learn about a layer, though it may about the others."""

from __future__ import annotations

from collections.abc import Sequence


class Unseen(ValueError):
    """It can't be known what reaches some layers.

    Args:
        layers: their names.
        reason: what is the matter with the first.
    """

    def __init__(self, layers: Sequence[str], reason: str) -> None:
        self.layers, self.reason = tuple(layers), reason
        super().__init__(
            f"the inputs of {layers[0]!r} can't be seen: {reason}; "
            "use a pruner without activations, or leave it out in the adapter's prunable()"
        )
