"""What `vlp-bench evaluate` is asked, and `vlp-bench prune` about what it has pruned, before anything is imported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vlp_bench.runs.own_model.request import MISSING, lacking, listed, places
from vlp_bench.runs.terminal.conf import choices, closest, conf_folder
from vlp_bench.runs.terminal.errors import UserError
from vlp_bench.runs.terminal.key_value import parse

GROUP, PRESETS = "evaluation", "evaluation/exp"
OF_DATA, OF_TASK, EXP = "data.", "task.", "+exp="
RENAMED = {"evaluate": "task", "results": "out"}
"""What the words of an evaluation are called in `vlp-bench prune`, whose `out` is the pruned folder."""


@dataclass(frozen=True)
class Words:
    """The plain words of `vlp-bench evaluate`."""

    model: str = ""
    task: str = ""
    out: str = "outputs"
    device: str = "cpu"
    dtype: str = ""
    force: bool = False


@dataclass(frozen=True)
class Evaluation:
    """What is measured of which models: their places, the task's keys (`task.KEY`) and the data's (`data.KEY`)."""

    words: Words
    models: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    exp: str = ""

    def of(self, models: Sequence[str]) -> Evaluation:
        """The same of other models."""
        return replace(self, models=tuple(models))

    @property
    def name(self) -> str:
        """What its rows are filed under."""
        return self.exp or f"evaluate_{self.words.task}"

    def check(self) -> None:
        """UserError for the first word that is missing or can't be."""
        known = choices(GROUP)
        if not self.words.task:
            raise UserError(f"task= is missing: give one of {', '.join(known)}")
        if self.words.task not in known:
            near = closest(self.words.task, known)
            raise UserError(f"task={self.words.task}: there is no such task; allowed: {', '.join(known)}{near}")
        if "root" not in self.data:
            raise lacking("data.root")
        if len(set(self.models)) < len(self.models):
            raise UserError(f"model={self.words.model}: a model stands there twice")


def is_preset(words: Sequence[str]) -> bool:
    """Whether a command line's `+exp=NAME` is a row of conf/evaluation/exp, of a model that is a folder."""
    known = choices(PRESETS)
    return any(word.removeprefix(EXP) in known for word in words if word.startswith(EXP))


def preset_in(words: Sequence[str]) -> tuple[str, list[str], list[str]]:
    """The preset of `+exp=NAME` (conf/evaluation/exp), the words it stands for, and the other words."""
    import yaml

    names = [word.removeprefix(EXP) for word in words if word.startswith(EXP)]
    others = [word for word in words if not word.startswith(EXP)]
    if not names:
        return "", [], others
    known = choices(PRESETS)
    if len(names) > 1 or names[0] not in known:
        trained = (
            f"an experiment of vlp-bench run ({EXP}{names[0]} pruner=NAME), whose model comes with it; for a folder "
        )
        told = trained if names[0] in choices("exp") else ""
        raise UserError(f"{EXP}{','.join(names)}: {told}one of {', '.join(known)} is needed{closest(names[0], known)}")
    text = (conf_folder() / PRESETS / f"{names[0]}.yaml").read_text(encoding="utf-8")
    return names[0], [f"{key}={value}" for key, value in yaml.safe_load(text).items()], others


def evaluation_of(words: Sequence[str]) -> Evaluation:
    """The request of a command line of `vlp-bench evaluate`."""
    name, preset, words = preset_in(words)
    found = _evaluation([*_unless_given(filter(_of_evaluation, preset), words), *words], name)
    if not found.models:
        raise lacking("model")
    return found


def check_given(verb: str, words: Sequence[str]) -> None:
    """UserError for all keys at once that a row of ECoFLaP's tables leaves to the command line, or `evaluate` needs.

    Args:
        verb: "evaluate", or one that prunes.
    """
    name, preset, others = preset_in(words)
    given = {_key(word) for word in (*preset, *others) if word.partition("=")[2]}
    if verb == "evaluate":
        needed = {"model", "task", "data.root"}
    else:
        needed = {"model", "data.root", "out"} | _to_calibrate(dict(word.split("=", 1) for word in preset), others)
        needed = needed - {"out", "calibration"} if "plan=true" in others else needed
    missing = [key for key in MISSING if key in needed - given]
    if missing and (name or missing[1:]):
        raise lacking(*missing, verb=verb, words=words)


def _to_calibrate(preset: Mapping[str, str], words: Sequence[str]) -> set[str]:
    """`calibration`, if the preset's own pruner is among those that are asked for, all of which read data."""
    typed = [word.partition("=")[2] for word in words if _key(word) == "pruner"]
    return {"calibration"} if preset["pruner"] in listed((typed or [preset["pruner"]])[-1]) else set()


def split(words: Sequence[str]) -> tuple[list[str], Evaluation | None]:
    """The words of `vlp-bench prune` that are about pruning, and what is to be measured of what it prunes.

    `evaluate=TASK` or a preset asks for it; `results=FOLDER` is where the rows go.
    """
    name, preset, words = preset_in(words)
    own = [word for word in words if _key(word) in RENAMED or word.startswith((OF_DATA, OF_TASK))]
    told = [f"{RENAMED.get(_key(word), _key(word))}={word.partition('=')[2]}" for word in own]
    pruning = [word for word in words if word not in own]
    pruning = [*_unless_given((w for w in preset if not _of_evaluation(w)), pruning), *pruning]
    if not own and not name:
        return pruning, None
    told = [*_unless_given(filter(_of_evaluation, preset), told), *told]
    if "task" not in map(_key, told):
        raise UserError(f"{own[0]}: evaluate= is missing: give what is measured, one of {', '.join(choices(GROUP))}")
    return pruning, _evaluation([*told, *(word for word in pruning if _key(word) in ("device", "dtype"))], name)


def _key(word: str) -> str:
    return word.partition("=")[0]


def _of_evaluation(word: str) -> bool:
    return _key(word) == "task" or word.startswith((OF_DATA, OF_TASK))


def _unless_given(preset: Iterable[str], words: Sequence[str]) -> list[str]:
    """Words of a preset that a command line does not give; with another task or pruner goes what belongs to it."""
    given = {_key(word) for word in words}
    gone = [f"{part}." for part, of in (("task", "task"), ("data", "task"), ("pruner", "pruner")) if of in given]
    return [word for word in preset if _key(word) not in given and not word.startswith(tuple(gone))]


def _evaluation(words: Sequence[str], exp: str) -> Evaluation:
    plain = parse(Words, [word for word in words if not word.startswith((OF_DATA, OF_TASK))])
    data, options = _below(words, OF_DATA), _below(words, OF_TASK)
    found = Evaluation(plain, tuple(places(plain.model)), options, data, exp)
    found.check()
    return found


def _below(words: Sequence[str], prefix: str) -> dict[str, Any]:
    """key -> value of the words that begin so, values as YAML has them."""
    import yaml

    found: dict[str, Any] = {}
    for word in words:
        if word.startswith(prefix):
            key, equals, value = word.removeprefix(prefix).partition("=")
            if not equals:
                raise UserError(f"{word}: expected {prefix}KEY=VALUE")
            try:
                found[key] = yaml.safe_load(value)
            except yaml.YAMLError:  # a sentence with a colon, or a brace
                found[key] = value
            if isinstance(found[key], dict | list):  # "{} ..." of a prompt
                found[key] = value
    return found
