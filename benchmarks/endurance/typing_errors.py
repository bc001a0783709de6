"""Typing errors, thousands of them: each ends in one line that names the key and what is allowed.

    python benchmarks/endurance/typing_errors.py                    # every key of six experiments
    python benchmarks/endurance/typing_errors.py xvlm_itr --seed 1  # one experiment

Each input is one word more on the command line of an experiment: a value of another kind for each of its keys, a key
that is not there, a key taken away, a misspelt choice. It goes through composition, the specification, and the
construction of every part up to the point before anything is computed. Counted: tracebacks, hangs (more than a
minute), messages that are not one line or do not name the key, and wrong values that were accepted.
"""

import argparse
import random
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from omegaconf import OmegaConf

from vlp_bench.construct import construct
from vlp_bench.runs.specification import Specification, register, specification_of, specify
from vlp_bench.runs.terminal.conf import choices, composed
from vlp_bench.runs.terminal.errors import explain
from vlp_bench.runs.trial_construction import construct_all

EXPERIMENTS = ("xvlm_itr", "blip_vqa", "dino_cls", "xvlm_ic", "blip_nlvr2", "clip_zeroshot")
VALUES = (
    "abc", "null", "1.5", "-1", "[]", "{a: 1}", "½", "0.5,", "${nope}", "${SELF}", "nan", "1e400", "true", "inf", "''",
    "[abc]", "99999999999999999999999", "0", "x/${SELF}",
)  # fmt: skip
WORDS = (
    "experiment=x", "+trainer.max_steps=5", "+trainer.max_epochs=5", "+nonsense=1", "trainer.accelerator=tpu",
    "precision=64-true", "+pruner.nonsense=7", "pruner.name._target_=os.system", "task._target_=os.system",
)  # fmt: skip
DEFAULTED = ("pruning_seed", "pruning_precision", "checkpoint_minutes")  # may be taken away
FRACTIONS = ("checkpoint_minutes",)  # whole as they stand, and may be others
SECONDS = 60  # a run of more is called a hang; a busy machine needs some for what takes one


class TooLong(BaseException):
    """No error of the program's: nothing in it catches this."""


@dataclass(frozen=True)
class Input:
    """One word too many: the word, the key it is about, and whether it must be refused (None: either is right)."""

    word: str
    key: str
    wrong: bool | None


def kind(value: Any) -> type:
    """What a value of the composed configuration shows of its key's type; a null shows nothing."""
    return type(None) if value is None else float if isinstance(value, float) else type(value)


def is_wrong(key: str, value: Any, text: str) -> bool | None:
    """Whether `text` can only be a mistake where `value` stands; None where one has to know more."""
    if text in ("½", "0.5,", "${nope}", "x/${SELF}", "${SELF}", "nan", "1e400", "inf") or text[0] in "{[":
        fine = (isinstance(value, str) and text in ("½", "nan", "inf", "1e400")) or (text[0] == "[" and value is None)
        return None if fine or isinstance(value, list) else True
    if value is None:
        return None
    right = {
        bool: ("true",), int: ("-1", "0"), float: ("1.5", "-1", "0"), str: ("abc", "''", "½"), list: ("[]", "[abc]"),
    }  # fmt: skip
    if text == "1.5" and key in FRACTIONS:
        return None
    if text == "null" and (not isinstance(value, bool) or key.startswith("trainer.")):
        return None
    return None if text in right[kind(value)] else True


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Key and value of everything in a composed configuration that is no mapping."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def inputs(plain: dict[str, Any]) -> Iterator[Input]:
    """Every typing error of an experiment."""
    for key, value in leaves(plain):
        if key.startswith("benchmark.") or key == "experiment":
            continue
        for text in VALUES:
            said = text.replace("SELF", key)
            yield Input(f"{key}={said}", key, is_wrong(key, value, text))
        yield Input(f"{key}x=1", f"{key}x", True)
        yield Input(f"+{key}.unknown=1", key, True)
        parent = key.rpartition(".")[0]
        if parent and not parent.startswith("logger"):
            yield Input(f"+{parent}.unknown=1", f"{parent}.unknown", None if parent in ("trainer.strategy",) else True)
        yield Input(f"~{key}", key, True if "." not in key and key not in DEFAULTED else None)
    for part in ("model", "pruner", "task", "data", "recipe", "trainer", "logger", "paths", "benchmark", "metrics"):
        for text in ("abc", "5", "null", "[omp]", "{a: 1}", "${nope}"):
            yield Input(f"{part}={text}", part, None if (part, text) in (("logger", "null"),) else True)
        yield Input(f"~{part}", part, True)
    for word in WORDS:
        yield Input(word, word.lstrip("+").partition("=")[0].removesuffix("._target_"), True)


def attempt(words: Sequence[str]) -> str | None:
    """Compose, specify and construct what is built before anything is computed; the line of the error, if one was met.

    Raises:
        Exception: what would be a traceback.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _attempt(words)
    except Exception as error:
        line = explain(error, words)
        if line is None:
            raise
        return line
    return None


def asked(words: Sequence[str]) -> Specification:
    """What a command line asks for, checked where a run checks it: Hydra asks for the folder first."""
    register()
    config = composed(words)
    OmegaConf.select(config, "hydra.run.dir")
    return specify(config, config.hydra)


def _attempt(words: Sequence[str]) -> None:
    specification = asked(words)
    construct_all(specification)
    construct(specification.config["data"], "data", specification.config["allow"])


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """TooLong after so many seconds."""

    def stop(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def verdict(experiment: str, given: Input) -> tuple[str, str]:
    """What became of an input ("refused", "accepted", or a fault) and the line, or the error, that says so."""
    try:
        with limited(SECONDS):
            line = attempt([f"+exp={experiment}", given.word])
    except TooLong:
        return "hang", ""
    except BaseException as error:
        return "traceback", f"{type(error).__name__}: {error}"
    if line is None:
        return ("silently wrong" if given.wrong else "accepted"), ""
    if "\n" in line.strip():
        return "more than a line", line
    last = given.key.rpartition(".")[2]
    return ("refused" if last in line else "does not name the key"), line


FAULTS = ("hang", "traceback", "silently wrong", "more than a line", "does not name the key")


def tried(
    experiments: Sequence[str], most: int | None, seed: int, say: Callable[[str], object], *, verbose: bool = False
) -> tuple[Counter[str], list[str]]:
    """Try inputs of each experiment, a sample of `most` where it is given; the counts and the faults."""
    counts: Counter[str] = Counter()
    faults = []
    for experiment in experiments:
        every = list(dict.fromkeys(inputs(specification_of([f"+exp={experiment}"]).config)))
        chosen = every if most is None else random.Random(f"{experiment} {seed}").sample(every, most)
        began = time.monotonic()
        for given in chosen:
            what, line = verdict(experiment, given)
            counts[what] += 1
            if what in FAULTS or verbose:
                faults.append(f"{what}: +exp={experiment} {given.word} -> {line}")
        say(f"{experiment}: {len(chosen)} inputs in {time.monotonic() - began:.0f} s")
    return counts, faults


def main() -> None:
    """Try them all, print the counts and the faults; exit code 1 if there are faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", default=list(EXPERIMENTS), help=f"of {', '.join(choices('exp'))}")
    parser.add_argument("--most", type=int, default=None, help="inputs of each experiment (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="show every input")
    args = parser.parse_args()
    say = partial(print, flush=True)
    counts, faults = tried(args.experiments, args.most, args.seed, say, verbose=args.verbose)
    print("\n".join(faults))
    print(f"{sum(counts.values())} inputs: " + ", ".join(f"{counts[what]} {what}" for what in sorted(counts)))
    raise SystemExit(1 if any(counts[what] for what in FAULTS) else 0)


if __name__ == "__main__":
    main()
