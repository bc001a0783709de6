"""The options that pruners share, by the names under which every yaml of conf/pruner has them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the parts of a pruner were told, for the record: each part has its own copy and is what checks it.

    Attributes:
        compat: "corrected" (the paper's definition) or "official" (the released code, quirk by quirk).
        steps: of the schedule, or of training.
        ridge: λ of CHITA.
        block_size: columns that SparseGPT decides on together, or weights that CHITA solves for together.
        memory_gb: what CHITA's gradient rows may take, in units of 10⁹ bytes.
        epsilon: step of ECoFLaP's finite differences.
        draws: finite differences per matrix.
        max_sparsity: the most that ECoFLaP takes from a group; None: 0.1 above the target.
        granularity: what ECoFLaP's groups are.
    """

    compat: str = "corrected"
    steps: int | None = None
    ridge: float | None = None
    block_size: int | None = None
    memory_gb: float | None = None
    epsilon: float | None = None
    draws: int | None = None
    max_sparsity: float | None = None
    granularity: str | None = None
