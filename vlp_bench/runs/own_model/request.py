"""What `vlp-bench prune` and `vlp-bench model show` are asked, checked before anything heavy is imported."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlp_bench.runs.terminal.conf import choices, closest
from vlp_bench.runs.terminal.errors import UserError
from vlp_bench.runs.terminal.key_value import parse

MODALITIES = ("vision", "text", "fusion", "audio")
PRECISIONS = ("auto", "fp32", "tf32", "bf16")
OF_PRUNER = ("pruner.", "pruner/")  # an option, a choice of a part: pruner/allocate=owl


MISSING = {
    "model": ("a folder with config.json and .safetensors, or hf:owner/name", "FOLDER"),
    "task": ("what is measured, one of those that vlp-bench evaluate --help names", "retrieval"),
    "calibration": ("what is calibrated on: images with captions, texts or chats", "PATH"),
    "data.root": ("the folder of the data that are evaluated on", "DATA"),
    "out": ("the folder that is written to", "PRUNED"),
}
"""Key that a command may need -> what it is, and what stands for it in an example."""


def lacking(*keys: str, verb: str = "", words: Sequence[str] = ()) -> UserError:
    """What is said of keys that are missing, all in one line; with a verb the command line that has them."""
    told = " and ".join(filter(None, (", ".join(f"{key}=" for key in keys[:-1]), f"{keys[-1]}=")))
    what = f"give {MISSING[keys[0]][0]}" if len(keys) == 1 else "; ".join(f"{key}: {MISSING[key][0]}" for key in keys)
    typed = " ".join(["vlp-bench", verb, *words, *(f"{key}={MISSING[key][1]}" for key in keys)])
    example = f"; e.g. {typed}" if verb else ""
    return UserError(f"{told} {'is' if len(keys) == 1 else 'are'} missing: {what}{example}")


@dataclass
class Selection:
    """What of a model is pruned: the keys that both verbs know.

    `also` and `leave` are patterns of names of weights or modules, `[a,b]` for several.
    """

    model: str = ""
    modality: str = ""
    prune_heads: bool = False
    also: str = ""
    leave: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `TransformersAdapter`."""
        patterns = {"also": listed(self.also), "leave": listed(self.leave)}
        return {"modality": self.modality or None, "prune_heads": self.prune_heads, **patterns}

    def check(self) -> None:
        """UserError for a model that is not given, or another modality."""
        if not self.model:
            raise lacking("model")
        if self.modality and self.modality not in MODALITIES:
            near = closest(self.modality, list(MODALITIES))
            raise UserError(f"modality={self.modality}: use one of {', '.join(MODALITIES)}{near}")


@dataclass
class Request(Selection):
    """The words of `vlp-bench prune`."""

    pruner: str = "wanda"
    sparsity: str = "0.5"
    calibration: str = ""
    out: str = ""
    num_samples: int = 128
    batch_size: int = 8
    max_length: int = 0
    seed: int = 0
    device: str = "cpu"
    dtype: str = ""
    pruning_precision: str = "auto"
    allow: str = ""
    offload: bool = False
    plan: bool = False
    tflops: int = 0
    yes: bool = False
    force: bool = False

    def check(self) -> None:
        """UserError for the first word that can't be, and for all that are missing."""
        if self.pruner not in (known := choices("pruner")):
            raise UserError(f"pruner={self.pruner}: there is no such pruner; allowed: {', '.join(known)}"
                            f"{closest(self.pruner.lower(), known)}")  # fmt: skip
        self.sparsities  # noqa: B018
        for key in ("num_samples", "batch_size"):
            if getattr(self, key) < 1:
                raise UserError(f"{key}={getattr(self, key)}: at least 1 is needed")
        if self.pruning_precision not in PRECISIONS:
            near = closest(self.pruning_precision, list(PRECISIONS))
            raise UserError(f"pruning_precision={self.pruning_precision}: use one of {', '.join(PRECISIONS)}{near}")
        given = {"model": self.model, "out": self.out or self.plan}
        if missing := [key for key, value in given.items() if not value]:
            raise lacking(*missing)
        super().check()
        self.check_keeps(model=self.model, calibration=self.calibration)
        if (
            not (self.force or self.plan)
            and Path(self.out).exists()
            and not (Path(self.out).is_dir() and not any(Path(self.out).iterdir()))
        ):
            raise UserError(f"out={self.out} is there already: choose another folder, or replace it with force=true")

    def check_keeps(self, **read: str) -> None:
        """UserError for an `out` whose replacement would take away what is read, or the folder one is in."""
        out = Path(self.out).resolve()
        places = {f"{key}={place}": Path(place).resolve() for key, place in read.items() if place}
        for what, place in {**places, "the folder you are in": Path.cwd()}.items():
            if self.out and (place == out or out in place.parents):
                raise UserError(f"out={self.out} would replace {what}: choose another folder")

    @property
    def sparsities(self) -> list[float]:
        """UserError for anything but numbers of [0, 1), each once."""
        words = listed(self.sparsity)
        try:
            found = [float(word) for word in words]
        except ValueError:
            found = []
        if not found or not all(0 <= s < 1 for s in found) or len(set(found)) < len(found):
            raise UserError(
                f"sparsity={self.sparsity}: expected numbers of at least 0 and below 1, as in 0.5 or 0.5,0.63"
            )
        return found


def listed(text: str) -> list[str]:
    """`a,b` or `[a,b]` as a list."""
    return [word.strip() for word in text.removeprefix("[").removesuffix("]").split(",") if word.strip()]


def places(text: str) -> list[str]:
    """`a,b` as a list; commas in the name of a folder that is there don't divide it."""
    if text and Path(text).is_dir():
        return [text]
    pieces, found = listed(text), list[str]()
    while pieces:
        end = next((n for n in range(len(pieces), 1, -1) if Path(",".join(pieces[:n])).is_dir()), 1)
        found.append(",".join(pieces[:end]))
        del pieces[:end]
    return found


def selection_of(words: Sequence[str]) -> Selection:
    """The selection of `vlp-bench model show FOLDER key=value ...`."""
    if not words or words[0] != "show":
        raise UserError(f"{words[0] if words else 'model'}: model takes one word, show: vlp-bench model show FOLDER")
    given = [word if "=" in word else f"model={word}" for word in words[1:]]
    if sum(word.startswith("model=") for word in given) > 1:
        raise UserError(f"{' '.join(words)}: one model at a time")
    selection = parse(Selection, given)
    selection.check()
    return selection


def request_of(words: Sequence[str]) -> tuple[Request, Mapping[str, Any]]:
    """The request, and the pruner's own options (`pruner.KEY=VALUE`), of a command line; `vlp-bench run` wants a plus
    sign before some of them, which means nothing here."""
    own = [word for word in words if word.removeprefix("+").startswith(OF_PRUNER) and "=" in word]
    request = parse(Request, [word for word in words if word not in own])
    request.check()
    pairs = (word.removeprefix("+")[len(OF_PRUNER[0]) :].split("=", 1) for word in own)
    return request, {key: _value(value) for key, value in pairs}


def _value(text: str) -> Any:
    """As YAML has it, but for n:m, which it takes for a number of base 60, and 1e-3, which it takes for text."""
    import yaml

    if re.fullmatch(r"\d+:\d+", text):
        return text
    return float(text) if re.fullmatch(r"[-+]?\d+(\.\d*)?e[-+]?\d+", text) else yaml.safe_load(text)
