"""What a pruner is called where people read it: its name, and the pattern of its masks where there is one."""

from collections.abc import Iterator, Mapping
from typing import Any

from vlp_bench.annotations import TARGET

DENSE = "vlp_bench.pruning.allocation.uniform.Dense"  # the allocation that removes nothing
UNITS = "units"
OF_UNITS = "vlp_bench.pruning.structured."
"""Where the solvers live that remove whole heads and neurons."""


def named(pruner: str, settings: Mapping[str, Any] | None) -> str:
    """'wanda (2:4)', 'flap (units)'; the name alone of one that removes single weights.

    Args:
        settings: the pruner's description, as rows (`config.pruner`) and masks (`settings`) hold it; None: not known.
    """
    pattern = pattern_of(settings)
    return f"{pruner} ({pattern})" if pattern else pruner


def pattern_of(settings: Mapping[str, Any] | None) -> str:
    """'2:4' or 'units'; empty for single weights, and where nothing is removed."""
    allocate, solve = ((settings or {}).get(part) for part in ("allocate", "solve"))
    nothing = isinstance(allocate, Mapping) and allocate.get(TARGET) == DENSE
    return "" if nothing else ", ".join(dict.fromkeys(_patterns(solve)))


def _patterns(part: Any) -> Iterator[str]:
    """Those of a solver and of the solvers in it; one of its own for a modality is said with it: 'vision 2:4'."""
    if not isinstance(part, Mapping):
        return
    if str(part.get(TARGET)).startswith(OF_UNITS):
        yield UNITS
    for key, value in part.items():
        if key != "within":
            yield from _patterns(value)
        elif isinstance(value, Mapping):
            yield from (f"{modality} {own}" for modality, own in value.items() if ":" in str(own))
        elif ":" in str(value):
            yield str(value)
