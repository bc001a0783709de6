"""One number and everything needed to believe it or to make it again."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

Status = Literal["ok", "ERR"]
STATUSES = ("ok", "ERR")

PROVENANCE = (
    "config",  # the full resolved configuration
    "versions",  # of python, torch, lightning, transformers, vlp_bench
    "commit",  # git commit of the code; None where there is no checkout
    "dirty",  # whether the checkout differed from that commit
    "data",  # fingerprint of the data; None when the run failed before it was known
    "weights",  # hash of the weight file
    "mask",  # hash of the mask; None for a run that keeps every weight or failed before pruning
    "hardware",
    "seconds",  # wall time of the run up to this row
    "time",  # UTC, ISO 8601
)
REQUIRED = ("config", "versions", "hardware", "time")  # these may not be empty


@dataclass(frozen=True)
class Row:
    """One number of one run.

    `run` is the identity of the specification, `setting` what it shares with the runs it may be compared with (all but
    pruner and sparsity). `rows` is how many rows were appended together: a run is done when all of them are there.
    A failed run leaves a row with status "ERR", NaN and the reason in `message`.

    Raises:
        ValueError: a key of the provenance is missing, or a value that is not finite has status "ok".
    """

    metric: str
    value: float
    split: str
    exp: str
    model: str
    task: str
    benchmark: str
    pruner: str
    sparsity: float
    seed: int
    run: str
    setting: str
    rows: int
    provenance: dict[str, Any] = field(repr=False)
    status: Status = "ok"
    message: str = ""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(STATUSES)}, got {self.status!r}")
        if self.status == "ok" and not math.isfinite(self.value):
            raise ValueError(f"{self.metric} is {self.value}: only a row with status ERR may hold that")
        missing = [key for key in PROVENANCE if key not in self.provenance]
        missing += [key for key in REQUIRED if key in self.provenance and not self.provenance[key]]
        if missing:
            raise ValueError(f"a row without provenance is not stored: {self.metric} of run {self.run} lacks {missing}")

    def to_json(self) -> str:
        """One line, without the line end; NaN becomes null, for JSON has no word for it."""
        content = asdict(self) | {"value": self.value if math.isfinite(self.value) else None}
        return json.dumps(content | {"sum": _sum(content)}, allow_nan=False, sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> "Row":
        """The row of a line; ValueError if the line is torn, of another shape, or breaks a rule of Row."""
        content = json.loads(line)
        names = {f.name for f in fields(cls)}
        if not isinstance(content, dict) or set(content) - {"sum"} != names:
            raise ValueError("not a row of this version")
        if (told := content.pop("sum", None)) is not None and told != _sum(content):
            raise ValueError("its content is not what was written")
        _check_types(content)
        if content["value"] is None:
            content["value"] = math.nan
        return cls(**content)


def _sum(content: dict[str, Any]) -> str:
    """Twelve hex digits of the SHA-256 of a row, so that a changed byte is noticed."""
    return hashlib.sha256(json.dumps(content, allow_nan=False, sort_keys=True).encode()).hexdigest()[:12]


def _check_types(content: dict[str, Any]) -> None:
    """Raise ValueError for a value of another type than its column's."""
    for column in fields(Row):
        value, kind = content[column.name], _TYPES.get(str(column.type), str)
        if column.name == "provenance" and isinstance(value, dict) and not isinstance(value.get("time", ""), str):
            raise ValueError(f"its time is {value['time']!r}")
        fine = isinstance(value, kind) and not isinstance(value, bool)
        if not fine and not (column.name == "value" and value is None):
            raise ValueError(f"{column.name} is {value!r}")


_TYPES: dict[str, Any] = {str(float): (int, float), str(int): int, str(dict[str, Any]): dict}
