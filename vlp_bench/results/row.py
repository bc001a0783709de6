"""One number and everything needed to believe it or to make it again."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from vlp_bench.annotations import fits, told

Status = Literal["ok", "ERR"]
STATUSES = ("ok", "ERR")
LONGEST = 1_000_000  # characters of a line; ours have some 5,000
DEEPEST = 32

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
OWN = "own"  # the benchmark of data of one's own, whatever sizes they are run with
REHEARSAL = "a rehearsal: few steps of everything, to see that the command goes through; the numbers mean nothing"
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
        if len(line) > LONGEST:
            raise ValueError(f"it is longer than {LONGEST:,} characters")
        try:
            content = json.loads(line, object_pairs_hook=_once)
        except RecursionError:
            raise ValueError("it is nested too deep") from None
        _check_depth(content)
        names = {f.name for f in fields(cls)}
        if not isinstance(content, dict) or set(content) - {"sum"} != names:
            raise ValueError("not a row of this version")
        if (told := content.pop("sum", None)) is not None and told != _sum(content):
            raise ValueError("its content is not what was written")
        _check_types(content)
        if content["value"] is None:
            content["value"] = math.nan
        return cls(**content)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The mapping of a JSON object; ValueError if a key stands there twice: readers would differ on what it says."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has the key {next(name for name in names if names.count(name) > 1)!r} twice")
    return found


def _sum(content: dict[str, Any]) -> str:
    """Twelve hex digits of the SHA-256 of a row, so that a changed byte is noticed."""
    return hashlib.sha256(json.dumps(content, allow_nan=False, sort_keys=True).encode()).hexdigest()[:12]


def _check_depth(content: Any) -> None:
    """Raise ValueError for what is nested deeper than any configuration, without descending by calls."""
    level, depth = [content], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} deep")
        level = [
            entry
            for value in level
            if isinstance(value, dict | list)
            for entry in (value.values() if isinstance(value, dict) else value)
        ]


def _check_types(content: dict[str, Any]) -> None:
    """Raise ValueError for a value of another type than its column's, and for numbers that fit into no frame."""
    for column in fields(Row):
        value, kind = content[column.name], _TYPES.get(str(column.type), str)
        if not fits(kind, value, _nothing) and not (column.name == "value" and (value is None or value != value)):
            raise ValueError(f"{column.name} is {told(value)}")
        if kind is str and column.name != "message" and not str(value).isprintable():
            raise ValueError(f"{column.name} is {value!r}")
    if not 0 <= content["sparsity"] < 1 or content["rows"] < 1:
        raise ValueError(f"sparsity is {content['sparsity']}, rows is {content['rows']}")
    _check_inside(content["provenance"])


_TYPES: dict[str, Any] = {str(float): float, str(int): int, str(dict[str, Any]): dict, str(Status): str}
_SETTINGS = dict | None
_INSIDE: dict[str, Any] = {  # what readers rely on, where it is there
    "config": dict, "versions": dict[str, str], "commit": str | None, "dirty": bool | None, "data": str | None,
    "weights": str | None, "mask": str | None, "hardware": dict, "seconds": float, "time": str,
    "notes": dict[str, str], "hardware.gpus": list[str], "hardware.machine": str, "hardware.processor": str,
    **{f"config.{part}": _SETTINGS for part in ("model", "task", "pruner", "recipe", "trainer", "benchmark", "paths")},
    "config.data": _SETTINGS, "config.data.source": _SETTINGS, "config.data.calibration": _SETTINGS,
    "config.data.calibration.seed": int | None,
}  # fmt: skip


def _check_inside(provenance: dict[str, Any]) -> None:
    """Raise ValueError for a value of the provenance whose type its readers do not expect."""
    for key, kind in _INSIDE.items():
        value: Any = provenance
        for name in key.split("."):
            value = value.get(name, _nothing) if isinstance(value, dict) else _nothing
        if value is not _nothing and not fits(kind, value, _nothing):
            raise ValueError(f"its {key} is {told(value)}")


def _nothing(name: str) -> None:
    return None
