"""The one place where an error becomes a line and an exit code. Our own mistakes keep their traceback."""

import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from traceback import walk_tb

from vlp_bench.lifetime import Interrupted, interruptible
from vlp_bench.pruning.choices import GROUPS
from vlp_bench.runs.terminal.conf import REPLACED, choices, closest, composed, groups, moved
from vlp_bench.runs.terminal.console import stderr
from vlp_bench.spelling import near

FAILED, MISTAKE, DIVERGED, BUSY, INTERRUPTED = 1, 2, 3, 75, 130  # exit codes; 128 + n: ended by signal n

_DISK = {
    errno.ENOSPC: "no space left on the disk; free some or choose another place with paths.out=DIR",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another place with paths.out=DIR",
    errno.EROFS: "the file system is read-only; choose another place with paths.out=DIR",
    errno.EACCES: "permission denied; choose another place with paths.out=DIR or change its permissions",
    errno.EPERM: "permission denied; choose another place with paths.out=DIR or change its permissions",
    errno.ENOTDIR: "a file lies where a folder is needed; move it or choose another place with paths.out=DIR",
}


GOES_ON = "the same command goes on from what is stored"


class UserError(ValueError):
    """Something only the user can mend; the message is the line they see."""


@contextmanager
def one_line(arguments: Sequence[str] = (), *, traceback: bool = False, stopped: str = GOES_ON) -> Iterator[None]:
    """End the program with one line and an exit code on an error a user can mend; let our own mistakes through.

    `arguments` is the command line, for hints about it; with `traceback` every error keeps its own. `stopped` is
    what an interrupt leaves.
    """
    try:
        with interruptible():
            yield
    except KeyboardInterrupt as stop:
        how = f" by {stop}" if isinstance(stop, Interrupted) else ""
        stderr.print(f"[red]interrupted[/]{how}; {stopped}")
        raise SystemExit(128 + stop.number if isinstance(stop, Interrupted) else INTERRUPTED) from None
    except Exception as error:
        line = explain(error, arguments)
        if line is None or traceback:
            raise
        stderr.print("[red]error:[/] ", end="")
        stderr.print(line, markup=False)
        raise SystemExit(exit_code(error)) from None


def wants_traceback(arguments: Sequence[str]) -> bool:
    """Whether the user asked for tracebacks: debug=true on the command line or HYDRA_FULL_ERROR=1."""
    asked = any(re.fullmatch(r"\+{0,2}debug=(true|1|yes|on)", word, re.IGNORECASE) for word in arguments)
    return asked or os.environ.get("HYDRA_FULL_ERROR") == "1"


def exit_code(error: BaseException) -> int:
    """2 for what the user typed or gave, 3 for a training that diverged, 75 for a folder in use, 1 for the machine."""
    inner = _inner(error) or error
    if type(inner).__name__ == "InUse":
        return BUSY
    if type(inner).__name__ == "Diverged":
        return DIVERGED
    refused = isinstance(inner, OSError) and not isinstance(inner, FileNotFoundError) and not _is_hydra(inner)
    return FAILED if refused or type(inner).__name__ == "OutOfMemoryError" else MISTAKE


def explain(error: BaseException, arguments: Sequence[str] = ()) -> str | None:
    """The line a user needs, or None if the error is ours."""
    if _is_hydra(error):
        return _explain_hydra(error, arguments)
    if isinstance(error, UserError):
        return str(error)
    if "Config group override must be a string" in str(error):  # Hydra's ValueError
        return _no_choice(arguments) or _flat(str(error))
    if type(error).__name__ == "OutOfMemoryError":
        return "the device is out of memory; make the batch smaller (data.batch_size=...) or use trainer=cpu"
    if type(error).__module__.startswith("yaml"):
        return f"a configuration file is not valid YAML: {_flat(str(error))}"
    if isinstance(error, UnicodeDecodeError | RecursionError) and (file := _read_by_hydra(error)):
        return f"{file}: this is no configuration file: {_flat(str(error))}"
    if isinstance(error, OSError):
        return _explain_os(error)
    if isinstance(error, ValueError) or type(error).__name__ == "MisconfigurationException":
        return _flat(str(error))
    return None


def _read_by_hydra(error: BaseException) -> str | None:
    """The configuration file that Hydra was reading: its error says where in it, and not in which."""
    frames = (frame for frame, _ in walk_tb(error.__traceback__))
    return next((frame.f_locals["full_path"] for frame in frames if "full_path" in frame.f_locals), None)


def _explain_os(error: OSError) -> str | None:
    where = f"{error.filename}: " if error.filename else ""
    if isinstance(error, FileNotFoundError):
        return f"{where}no such file or folder" if error.filename else _flat(str(error))
    reason = _DISK.get(error.errno or 0)
    return f"{where}{reason}" if reason else f"{where}{error.strerror}" if error.strerror else _flat(str(error))


def _explain_hydra(error: BaseException, arguments: Sequence[str]) -> str | None:
    missing = getattr(error, "missing_cfg_file", None)
    if missing:
        return _unknown_choice(missing)
    text = str(error)
    if type(error).__name__ == "OverrideParseException":
        return _unreadable(str(getattr(error, "override", "")))
    if found := re.search(r"Could not override '([^']+)'", text):
        return _no_choice(arguments) or _unknown_key(found[1], arguments)
    if found := re.search(r"Error resolving interpolation '(.*?)'", text):
        word = next((word for word in arguments if found[1] in word), found[1])
        return f"{word}: there is nothing that {found[1]} stands for where choices are made"
    if found := re.search(r"Ambiguous value for argument '(.*?)'\n", text):
        return f"{found[1]}: several values are a sweep: vlp-bench run -m, or vlp-bench compare"
    if found := re.search(r"Error merging override (.*)", text):
        return f"{found[1]}: expected a value of the kind that stands there"
    if (inner := _inner(error)) is not None:
        return explain(inner, arguments)
    return reason(error)


def reason(error: BaseException) -> str:
    """What an error of Hydra's says, without where in a configuration it was being read."""
    text = _flat(str(error).split("See https")[0])
    found = re.match(r"ValueError raised while resolving interpolation: (.*) full_key: \S+( object_type=\w+)?$", text)
    return found[1] if found else text


def _no_choice(arguments: Sequence[str]) -> str | None:
    """Of the first group that was given something other than a name, if there is one."""
    kind = r"null|true|false|[-+.\d]+|\{.*|\[.*"
    for word in arguments:
        group, _, value = word.lstrip("+").partition("=")
        if group in groups() and re.fullmatch(kind, value, re.IGNORECASE):
            return f"{word}: expected the name of a choice; allowed: {', '.join(choices(group))}"
    return None


def _unreadable(word: str) -> str:
    """Of a word that Hydra cannot read."""
    key, equals, value = word.partition("=")
    if not equals and not word.startswith("~"):
        return f"'{word}': every word after the options is key=value"
    hint = f"; commas, brackets, spaces and other signs go in quotes: \"{key}='{value}'\"" if value else ""
    return f"{word}: {value or 'this'} cannot be read as a value{hint}"


def _unknown_choice(missing: str) -> str:
    group, _, given = missing.rpartition("/")
    allowed = choices(group)
    if group == "exp" and given in choices("evaluation/exp"):
        verbs = "vlp-bench run, compare, prune and evaluate, of a model that is a folder (model=FOLDER)"
        return f"exp={given}: an experiment of {verbs}; here it is one of {', '.join(allowed)}"
    if now := REPLACED.get(f"{group}={given}"):
        return f"{group}={given} is {now} now"
    base, _, benchmark = given.rpartition("_")
    if benchmark in choices("benchmark"):  # named by the experiment, not by the person
        has = [name for name in choices("benchmark") if f"{base}_{name}" in allowed]
        offered = f"its benchmarks: {', '.join(has)}" if has else f"allowed: {', '.join(allowed)}"
        return f"benchmark={benchmark} has no {group} for this experiment ({given}); {offered}"
    what = "experiment" if group == "exp" else group
    return f"{group}={given}: there is no such {what}; allowed: {', '.join(allowed)}{closest(given, allowed)}"


def _unknown_key(key: str, arguments: Sequence[str]) -> str:
    given = next((word for word in arguments if word.lstrip("+~").split("=")[0] == key), key)
    if key == "exp":
        return f"{given}: an experiment is added with a plus sign: +{given}"
    if key.startswith("pruner/"):
        return unknown_part(given, key.removeprefix("pruner/"))
    names = known_keys(arguments)
    if not names:
        return f"{given}: {key} can only be set together with +exp=NAME; NAME is one of {', '.join(choices('exp'))}"
    parent, allowed = _siblings(key, names)
    last = key.rpartition(".")[2]
    elsewhere = [name for name in names if name.rpartition(".")[2] == last]
    same = f"; did you mean {' or '.join(elsewhere[:3])}?" if elsewhere else ""
    near = moved(key) or same or closest(last, allowed) or closest(key, names)
    return f"{given}: there is no value {key}; allowed{' in ' + parent if parent else ''}: {', '.join(allowed)}{near}"


def unknown_part(given: str, part: str) -> str:
    """Of a part of a pruner (`pruner/PART=NAME`) that its file doesn't choose, or that no pruner has."""
    if part in GROUPS:
        word = given.lstrip("+~")
        return f"{given}: this pruner has no {part} to exchange, so one is added with a plus sign: +{word}"
    meant = [f"pruner/{group}" for group in near(part, GROUPS)[:1]]
    told = "".join(f"; did you mean {group}? It is one of {', '.join(choices(group))}" for group in meant)
    return f"{given}: a pruner has no {part}; its parts are {', '.join(GROUPS)}{told}"


def _siblings(key: str, names: Sequence[str]) -> tuple[str, list[str]]:
    """The innermost existing parent of a key, and what lies in it."""
    parent = key.rpartition(".")[0]
    while parent and not any(name.startswith(f"{parent}.") for name in names):
        parent = parent.rpartition(".")[0]
    return parent, sorted(name.rpartition(".")[2] for name in names if name.rpartition(".")[0] == parent)


def known_keys(arguments: Sequence[str]) -> list[str]:
    """Every key of the configuration that the groups among `arguments` compose; empty without an experiment."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    chosen = [word for word in arguments if word.lstrip("+").split("=")[0].split("/")[0] in groups()]
    GlobalHydra.instance().clear()
    try:
        config = composed(chosen, hydra=False)
    except HydraException:
        return []
    return list(_names(config)) if config.get("experiment") else []


def _names(config: object, prefix: str = "") -> Iterator[str]:
    from omegaconf import DictConfig

    if isinstance(config, DictConfig):
        for key in config:
            yield f"{prefix}{key}"
            yield from _names(config._get_node(key), f"{prefix}{key}.")


def _inner(error: BaseException) -> BaseException | None:
    """The first error in the chain that is not Hydra's wrapping of another."""
    return next((link for link in _chain(error) if not _is_hydra(link)), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    seen: set[int] = set()  # Hydra and OmegaConf make circles of causes
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (link.__context__ if _is_hydra(link) else None)


def _is_hydra(error: BaseException) -> bool:
    return any(kind.__module__.split(".")[0] in ("hydra", "omegaconf") for kind in type(error).__mro__)


def _flat(text: str) -> str:
    return " ".join(_of_worker(text).split())


def _of_worker(text: str) -> str:
    """What an error said in a process that prepares batches; PyTorch puts that process's traceback around it."""
    found = re.match(r"Caught (\w+) in DataLoader worker process \d+\.\n", text)
    return text.rpartition(f"{found[1]}: ")[2] if found else text
