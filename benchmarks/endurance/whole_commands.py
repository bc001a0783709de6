"""Whole commands with wrong words and damaged files: each ends in one line, never in a traceback, a hang or a lie.

    python benchmarks/endurance/whole_commands.py                 # every verb, every kind of file: some 1,000 commands
    python benchmarks/endurance/whole_commands.py words --most 100 --seed 3
    python benchmarks/endurance/whole_commands.py files

`words`: every option of every verb but `run` (that is `typing_errors.py`'s) with values of other kinds, misspelt keys,
missing and doubled words. `files`: what a run leaves behind (rows, masks, weights, checkpoints, examples, curves),
damaged as in `damage.py`, read by each verb that reads it. A command is a fork of this process, in a folder of its
own. Counted: tracebacks, hangs (more than two minutes), errors of more than a line, escape sequences that reach the
terminal, failures without a word, wrong words that end with 0, and other values than the whole file's without a word.

* refused: an exit code that is not 0, and a line.   * same: the command said and wrote what it does of the whole file.
* told: other values, and the damaged file is named.  * another file: other values of one that is whole in itself.
"""

import argparse
import os
import random
import re
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.endurance import damaged_files
from benchmarks.endurance.damage import another
from vlp_bench.runs.terminal import console as terminal

SECONDS = 120
VALUES = ("abc", "", "-1", "1.5", "nan", "[]", "½", "null", "../../../x", "/dev/null/x", "a\x1b[2Jb", "9" * 30)
FAULTS = ("hang", "traceback", "more than a line", "silently wrong", "escape sequence")
KEYED = {  # verb -> its keys
    "report": ("out", "exp", "benchmark", "baseline", "examples", "weights", "title", "files"),
    "sync": ("out", "online", "project", "exp"),
    "rescore": ("out", "exp", "benchmark", "corenlp_dir", "force"),
    "status": ("paths.out", "sparsity", "seed"),
}
Values = dict[str, list[str]]  # what was written -> its lines; "" is what was said
WRONG: dict[str, tuple[str, ...]] = {  # verb -> words that can only be wrong, one command each
    "compare": (
        "+exp=nope", "exp=xvlm_itr", "+exp=xvlm_itr workers=0", "+exp=xvlm_itr workers=abc",
        "+exp=xvlm_itr workers=-1",
        "+exp=xvlm_itr pruner=nope", "+exp=xvlm_itr pruner=", "+exp=xvlm_itr pruner=omp,nope",
        "+exp=xvlm_itr seed=abc",
        "+exp=xvlm_itr sparsity=abc", "+exp=xvlm_itr sparsity=1.5", "+exp=xvlm_itr sparsity=",
        "+exp=xvlm_itr seed=-1",
        "+exp=xvlm_itr sparsity=nan", "+exp=xvlm_itr seed=1.5", "+exp=xvlm_itr seed=0,,1", "+exp=xvlm_itr nonsense=1",
        "+exp=xvlm_itr task.lr=abc", "+exp=xvlm_itr recipe.epochs=-1", "+exp=xvlm_itr data.batch_size=0", "xvlm_itr",
        "+exp=xvlm_itr task.k_test=0", "+exp=xvlm_itr precision=64-true", "+exp=xvlm_itr seed=${seed}", "--nope", "",
        "+exp=xvlm_itr task.image_size=13", "+exp=xvlm_itr sparsity=0.5 sparsity=0.9 x", "+exp=xvlm_itr,xvlm_vqa",
        "+exp=xvlm_itr data.eval_transform.size=40", "+exp=xvlm_itr workers=1e9",
        "+exp=xvlm_itr +trainer.max_epochs=1",
    ),
    "experiment": (
        "nope", "table08_edges_nodes pruner=nope", "table08_edges_nodes sparsity=abc", "table08_edges_nodes seed=99",
        "table08_edges_nodes dry=maybe", "table08_edges_nodes workers=0", "table08_edges_nodes nonsense=1",
        "table08_edges_nodes task.lr=abc dry=true", "table08_edges_nodes benchmark=nope", "seed=0", "../x",
        "table08_edges_nodes paths.out=5 dry=true", "table08_edges_nodes x",
        "table08_edges_nodes sparsity=2", "table08_edges_nodes seed=", "table08_edges_nodes pruner=omp dry=true",
        "table08_edges_nodes +exp=xvlm_vqa dry=true", "table08_edges_nodes seed=0,abc", "dry=true",
    ),
    "ridge": ("", "+exp=xvlm_itr pruner=omp", "+exp=nope pruner=chita",
              "+exp=xvlm_itr pruner=chita workers=0"),
    "masks": (
        "", "show", "show nope", "show OUT", "show MASK --by nope", "diff MASK", "diff MASK nope", "convert MASK",
        "convert MASK OUT/x --form nope", "convert MASK OUT/x.safetensors --sparsity 2", "nope MASK", "show ROWS",
        "convert MASK OUT/x.safetensors --sparsity abc",
        "convert MASK OUT/x.safetensors --sparsity 0.5 --weights nope",
        "convert MASK OUT/x.safetensors --sparsity nan", "show WEIGHTS", "diff MASK WEIGHTS", "show MASK MASK",
    ),
    "export": (
        "", "write", "write MASK", "write MASK OUT/x", "write MASK OUT/x --as nope", "write nope OUT/x --as dense",
        "write OUT OUT/x --as dense", "report MASK --tokens abc", "report MASK --tokens 0", "report MASK --tokens -3",
        "report MASK --device nope", "report MASK --rounds 0", "report MASK --tokens ", "report nope", "report ROWS",
        "write MASK OUT/x --as dense --weights nope", "write MASK OUT/x --as dense --weights ROWS",
        "write RUN OUT/x --as dense --weights MASK", "report MASK --rounds abc", "report MASK --device cuda:99",
    ),
    "weights": ("", "check", "check nope", "check OUT", "check ROWS", "nope x", "check hf:", "check pkg://nope/x",
                "check MASK", "check pkg://vlp_bench/../x", "check hf:../../x", "check /dev/null",
                "check WEIGHTS WEIGHTS"),
    "data": (
        "check", "check nope.json", "check +exp=nope", "check ROWS", "check OUT", "nope", "mini-copy", "check MASK",
        "mini-copy OUT/m images=abc", "mini-copy OUT/m images=-1", "mini-copy OUT/m side=0", "mini-copy OUT/m nope=1",
        "check +exp=xvlm_itr benchmark=paper", "check ROWS format=nope",
        "check --sample=abc +exp=xvlm_itr", "check --sample=-1 +exp=xvlm_itr", "check vocab=nope ROWS",
        "check images=nope ROWS",
    ),
    "evaluate": (
        "", "model=nope", "model=nope task=retrieval", "task=nope", "model=nope task=perplexity data.root=nope",
        "model=. task=vqa data.root=.", "x", "model=nope task=retrieval task.x=1",
    ),
    "prune": (
        "", "model=nope", "model=OUT", "model=ROWS", "model=hf:nope", "model=OUT out=OUT/p", "model=",
        "model=OUT pruner=nope",
        "model=OUT sparsity=2", "model=OUT sparsity=abc", "model=OUT sparsity=", "model=OUT seed=abc",
        "model=OUT yes=maybe",
        "model=OUT modality=nope", "model=OUT device=nope", "model=OUT dtype=nope", "model=OUT batch_size=0",
        "model=OUT num_samples=-1", "model=OUT max_length=abc", "model=OUT calibration=nope",
        "model=OUT nonsense=1", "x",
        "model=OUT pruner.nonsense=1", "model=OUT leave=nope yes=true", "--nope",
    ),
    "model": ("", "show", "show nope", "show ROWS", "show OUT", "nope OUT", "show hf:nope", "show OUT OUT"),
    "gate": ("nope", "--cases abc", "ROWS", "MASK", "--cases 0", "--cases -5 --words-only", "xvlm blip"),
    "pretrain": (
        "--steps abc", "--steps -1", "--steps 0", "--batch-size 0", "--lr abc", "--lr -1", "--lr nan", "--model nope",
        "--init nope", "--seed abc", "--seed -1", "--width 0", "--width 7", "--precision nope", "--accelerator nope",
        "--probe-every 0", "--threads 0", "--workers -1", "--warmup-steps -1", "--init ROWS", "x",
        "--vision-layers 0",
        "--fusion-layers -1",
    ),
    "pretrain-dino": ("--steps abc", "--steps -1", "--batch-size 0", "--lr nan", "--seed -1", "--nope"),
    "list": ("nope", "pruners nope", "experiments x=1", "pruner"),
    "status": ("+exp=nope", "nope", "+exp=xvlm_itr pruner=nope", "+exp=xvlm_itr seed=abc", "paths.out=nope", "-m",
               "+exp=xvlm_itr sparsity=2", "paths.out=ROWS", "+exp=xvlm_itr nonsense=1",
        "+exp=xvlm_itr seed=${seed}"),
    "report": ("out=nope", "out=ROWS", "nope", "report", "out=OUT exp=nope", "OUT", "--out OUT", "out=OUT to=ROWS"),
    "sync": ("out=nope", "out=ROWS", "online=maybe", "online", "out=OUT exp=nope"),
    "rescore": ("out=nope", "force=maybe", "corenlp_dir", "out=OUT"),
    "nope": ("",),
    "repot": ("out=OUT",),
}  # fmt: skip
READERS = {  # what is damaged -> its form (see damage.FORMS), and the commands that read it
    "rows": ("lines", ("report out=OUT", "status paths.out=OUT", "export write RUN OUT/x --as packed", "sync out=OUT",
                       "rescore out=OUT")),
    "mask": ("safetensors!", (
        "masks show MASK", "masks diff MASK MASK", "export report MASK --rounds 1 --tokens 1", "report out=OUT",
        "export write MASK OUT/y --as packed", "export write RUN OUT/x --as packed")),
    "weights": ("safetensors", (
        "weights check WEIGHTS", "export write MASK OUT/x --as dense --weights WEIGHTS", "data check WEIGHTS",
        "gate WEIGHTS --words-only --cases 2")),
    "best": ("zip", ("export write RUN OUT/x --as packed",)),
    "examples": ("zip", ("report out=OUT",)),
    "curves": ("text", ("report out=OUT", "sync out=OUT")),
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code (None: it had to be killed), and all it said."""

    code: int | None
    text: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.text.splitlines() if re.match(r"(error|.*: error): ?", line)]


def performed(words: Sequence[str], folder: Path) -> Outcome:
    """`vlp-bench WORDS` in a fork, with `folder` as its working folder."""
    log = folder / "said.txt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if not pid:
        _child(words, folder, log)
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return Outcome(os.waitstatus_to_exitcode(status), log.read_text("utf-8", "replace"))
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return Outcome(None, log.read_text("utf-8", "replace"))


def _child(words: Sequence[str], folder: Path, log: Path) -> None:
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        torch.set_num_threads(1)
        os.environ |= {"COLUMNS": "400", "WANDB_MODE": "offline", "WANDB_SILENT": "true", "HF_HUB_OFFLINE": "1"}
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout = sys.stderr = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
        terminal.console.file = terminal.stderr.file = sys.stdout
        sys.argv = ["vlp-bench", *words]
        from vlp_bench.__main__ import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def verdict(outcome: Outcome, *, wrong: bool) -> str:
    """What became of a command; `wrong`: its words, or its files, can only be a mistake."""
    if outcome.code is None:
        return "hang"
    if "Traceback (most recent call last)" in outcome.text or outcome.code < 0:
        return "traceback"
    if "\x1b[2J" in outcome.text:
        return "escape sequence"
    if outcome.code and not outcome.text.strip():
        return "silently wrong"
    if len(outcome.errors) > 1:
        return "more than a line"
    return "silently wrong" if wrong and not outcome.code else "accepted" if not outcome.code else "refused"


# What there is to read: the results of one small run


def prepared(folder: Path) -> Path:
    """A folder with the results of a comparison of two cells, made in half a minute; raises AssertionError if not."""
    words = ["compare", "+exp=xvlm_itr", "pruner=dense,omp", "sparsity=0.9", "seed=0", "rehearse=true", "trainer=cpu",
             "workers=1", f"paths.out={folder}/made"]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    outcome = performed(words, folder)
    assert outcome.code == 0, outcome.text
    out = folder / "made" / "rehearsal"
    from vlp_bench.models.checkpoints.locations import located

    shutil.copy(located("pkg://vlp_bench/assets/xvlm_shapes.safetensors"), out / "weights.safetensors")
    return out


def places(out: Path) -> dict[str, Path]:
    """Of such a folder, by the words that stand for them in commands, and by kind."""
    run = next(out.glob("runs/*-omp-*"))
    return {
        "OUT": out, "RUN": run, "ROWS": run / "rows.jsonl", "MASK": next(out.glob("masks/*.safetensors")),
        "WEIGHTS": out / "weights.safetensors", "rows": run / "rows.jsonl", "best": run / "best.ckpt",
        "mask": next(out.glob("masks/*.safetensors")), "weights": out / "weights.safetensors",
        "examples": next(run.glob("examples*"), run / "rows.jsonl"),
        "curves": next(run.glob("curves/*/metrics.csv"), run / "rows.jsonl"),
    }  # fmt: skip


def copied(out: Path, to: Path) -> Path:
    """The same folder again; files are links until one is damaged."""
    shutil.copytree(out, to / "out", copy_function=os.link)
    return to / "out"


def filled(command: str, out: Path) -> list[str]:
    """The words of a command, with places in the stead of OUT, RUN, ROWS, MASK and WEIGHTS."""
    there = {name: str(place) for name, place in places(out).items() if name.isupper()}
    names = rf"\b({'|'.join(there)})\b"
    return [re.sub(names, lambda found: there[found[1]], word) for word in command.split(" ") if word]


# Wrong words


def wordings() -> Iterator[tuple[str, bool]]:
    """Commands, and whether each can only be wrong."""
    for verb, all_words in WRONG.items():
        yield from ((f"{verb} {words}", True) for words in all_words)
    for verb, keys in KEYED.items():
        for key in keys:
            own = "" if key in ("out", "paths.out") else f" {keys[0]}=OUT"
            for value in VALUES:
                yield f"{verb}{own} {key}={value}", False
            yield f"{verb}{own} {key}x=1", verb != "status"
            yield f"{verb}{own} {key}", True


# Damaged files


def damages(rng: random.Random) -> Iterator[tuple[str, str, "partial[bytes]"]]:
    """(kind of file, command, what happens to its bytes)."""
    for kind, (form, commands) in READERS.items():
        for command in commands:
            for damage in dict.fromkeys(damaged_files.damages(form)):
                yield kind, command, partial(damage, rng=random.Random(rng.random()))  # pyright: ignore[reportCallIssue]


@dataclass
class Whole:
    """A folder of results as it was made, and what commands say and write of it."""

    out: Path
    found: dict[str, list[Values]] = field(default_factory=dict)

    def values(self, command: str) -> list[Values]:
        """Twice, as times and seconds differ; raises AssertionError if nothing is said."""
        if command not in self.found:
            self.found[command] = [self._once(command) for _ in range(2)]
        return self.found[command]

    def _once(self, command: str) -> Values:
        with TemporaryDirectory(dir=self.out.parent) as scratch:
            outcome, values = observed(command, copied(self.out, Path(scratch)), Path(scratch))
        assert outcome.text.strip(), command
        return values


def observed(command: str, copy: Path, folder: Path) -> tuple[Outcome, Values]:
    """Perform a command on a copy; how it ended, and all it said and wrote."""
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}
    outcome = performed(filled(command, copy), folder)
    written = [file for file in sorted(folder.rglob("*")) if file.is_file() and _is_new(file, before)]
    return outcome, {
        "": _lines(outcome.text.encode(), folder),
        **{str(file.relative_to(folder)): _lines(file.read_bytes(), folder) for file in written},
    }


def _is_new(file: Path, before: Mapping[Path, int]) -> bool:
    apart = ("wandb", "said.txt")  # what is sent to W&B is of its own format, full of times
    return before.get(file) != file.stat().st_mtime_ns and not any(part in apart for part in file.parts)


def _lines(data: bytes, folder: Path) -> list[str]:
    return data.decode("latin-1").replace(str(folder), "").split("\n")


def same(found: Values, whole: Sequence[Values]) -> bool:
    """Whether what was found is what both looks at the whole file found, but for lines in which these differ."""
    one, other = whole
    if found.keys() != one.keys():
        return False
    return all(len(lines) == len(one[name]) and all(
        line in pair or pair[0] != pair[1] for line, *pair in zip(lines, one[name], other[name], strict=False)
    ) for name, lines in found.items())  # fmt: skip


def verdict_of_values(
    outcome: Outcome, found: Values, whole: Sequence[Values], file: Path, contents: tuple[bytes, bytes], form: str
) -> str:
    """As `verdict`, of a command that read `file` with the second of two contents in place of the first."""
    plainly = verdict(outcome, wrong=False)
    if plainly != "accepted":
        return plainly
    if same(found, whole):
        return "same"
    if _named(found, file) > max(_named(values, file) for values in whole):
        return "told"
    return "another file" if another(form, *contents) else "silently wrong"


def _named(values: Values, file: Path) -> int:
    """How often a file is named, in lines that may be broken anywhere; a report says in its page what it left out."""
    return sum("".join("".join(lines).split()).count(file.name) for lines in values.values())


# All of them


def tried(
    what: str, out: Path, most: int | None, seed: int, say: Callable[[str], object]
) -> tuple[Counter[str], list[str]]:
    """Perform the commands of a kind ("words" or "files"), a sample of `most` where it is given."""
    rng, counts, faults = random.Random(f"{what} {seed}"), Counter[str](), list[str]()
    cases: list = list(wordings()) if what == "words" else list(damages(rng))
    chosen = cases if most is None else rng.sample(cases, most)
    began, whole = time.monotonic(), Whole(out)
    for case in chosen:
        with TemporaryDirectory(dir=out.parent) as scratch:
            copy = copied(out, Path(scratch))
            done = _worded(case, copy) if what == "words" else _damaged(case, copy, whole)
        if done is None:
            continue
        found, told, outcome = done
        counts[found] += 1
        if found in FAULTS:
            faults.append(f"{found}: {told!r} -> {outcome.code} {outcome.text[-600:]!r}")
            say(faults[-1])
    say(f"{what}: {len(chosen)} commands in {time.monotonic() - began:.0f} s")
    return counts, faults


Done = tuple[str, str, Outcome]  # the verdict, what was done, how it ended


def _worded(case: tuple[str, bool], copy: Path) -> Done:
    command, wrong = case
    outcome = performed(filled(command, copy), copy.parent)
    return verdict(outcome, wrong=wrong), command, outcome


def _damaged(case: tuple[str, str, "partial[bytes]"], copy: Path, whole: Whole) -> Done | None:
    """None where the damage changes nothing."""
    kind, command, change = case
    expected, file = whole.values(command), places(copy)[kind]
    before = file.read_bytes()
    after = change(before)
    if after == before:
        return None
    file.unlink()  # a link to the one that stays whole
    file.write_bytes(after)
    outcome, found = observed(command, copy, copy.parent)
    told = f"{command} with {kind} after {change.func.__name__}"
    return verdict_of_values(outcome, found, expected, file, (before, after), READERS[kind][0]), told, outcome


def warm() -> None:
    """Import what the verbs do, once for all forks."""
    import vlp_bench.commands.compare
    import vlp_bench.commands.data
    import vlp_bench.commands.export
    import vlp_bench.commands.report
    import vlp_bench.models.checkpoints.identify
    import vlp_bench.results.report.page
    import vlp_bench.runs.pruned_model
    import vlp_bench.sweeps.comparison  # noqa: F401


def main() -> None:
    """Perform them, print counts and faults; exit code 1 if there are faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=["words", "files"], help="words, files")
    parser.add_argument("--most", type=int, default=None, help="commands of each (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warm()
    counts: Counter[str] = Counter()
    with TemporaryDirectory() as folder:
        out = prepared(Path(folder))
        for what in args.kinds:
            counts += tried(what, out, args.most, args.seed, partial(print, flush=True))[0]
    print(f"{sum(counts.values())} commands: " + ", ".join(f"{counts[what]} {what}" for what in sorted(counts)))
    raise SystemExit(1 if any(counts[what] for what in FAULTS) else 0)


if __name__ == "__main__":
    main()
