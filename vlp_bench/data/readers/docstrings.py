"""Pairs of texts that every machine has: functions of Python's standard library, and what their docstrings say of them.

The sources are parsed, never imported, so the pairs follow from Python's version alone.
"""

import ast
import hashlib
import json
import platform
import re
import sys
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

TESTS = {"test", "tests", "idle_test"}
FEWEST_WORDS = 4
"""Of a description; shorter ones say too little to tell functions apart."""
SIZES = {"test": 1000, "val": 300}
"""The most pairs of a split; all others are for training."""


@dataclass(frozen=True)
class Described:
    """A public function and the first paragraph of its docstring. module: its top-level module; split: of `SIZES`."""

    split: str
    module: str
    name: str
    text: str


@cache
def documented() -> tuple[Described, ...]:
    """Every public documented function of the running Python's standard library, dealt to splits by module.

    Modules come in the order of a hash of their names; one goes to the test split if it still fits there, else to the
    validation split, else to training. A description that is said of two functions is left out.
    """
    found = [pair for name in sorted(sys.stdlib_module_names) if name[0] != "_" for pair in _of_module(name)]
    said = Counter(text.lower() for _, _, text in found)
    by_module: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for module, name, text in found:
        if said[text.lower()] == 1:
            by_module[module].append((name, text))
    splits = _dealt({module: len(pairs) for module, pairs in by_module.items()})
    return tuple(Described(splits[m], m, name, text) for m, pairs in by_module.items() for name, text in pairs)


def _dealt(counts: Mapping[str, int]) -> dict[str, str]:
    """Module -> its split."""
    left, splits = dict(SIZES), {}
    for module in sorted(counts, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
        splits[module] = next((split for split, room in left.items() if counts[module] <= room), "train")
        if splits[module] in left:
            left[splits[module]] -= counts[module]
    return splits


def _of_module(module: str) -> Iterator[tuple[str, str, str]]:
    """(module, name and signature, description) of a top-level module; none of one that is not written in Python."""
    place = Path(sysconfig.get_path("stdlib")) / module
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    for file in files:
        parts = file.relative_to(place.parent).with_suffix("").parts
        if file.is_file() and not TESTS.intersection(parts) and all(map(_is_public, parts)):
            for name, text in _functions(ast.parse(file.read_bytes())):
                yield module, name, text


def _functions(node: ast.Module | ast.ClassDef, inside: str = "") -> Iterator[tuple[str, str]]:
    """The public documented functions of a module or class, in their order."""
    for child in node.body:
        if isinstance(child, ast.ClassDef) and _is_public(child.name):
            yield from _functions(child, f"{inside}{child.name} ")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and _is_public(child.name):
            text = _first_paragraph(ast.get_docstring(child) or "")
            if len(text.split()) >= FEWEST_WORDS and f"{child.name}(" not in text:  # no copy of the signature
                yield f"{in_words(inside + child.name)}({_arguments(child)})", text


def _is_public(name: str) -> bool:
    return not name.startswith("_") or name.endswith("__")


def _first_paragraph(docstring: str) -> str:
    return " ".join(docstring.split("\n\n")[0].split())


def _arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    return re.sub(r"^(self|cls)(, )?", "", ast.unparse(function.args))


def in_words(name: str) -> str:
    """'HTTPConnection set_debuglevel' -> 'HTTPConnection set debuglevel', 'makeRecord' -> 'make Record'."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).replace("_", " ").strip()


# The file: a head that says of which Python, and the hash of what follows; a pair a line


def write(file: Path) -> str:
    """Write the running Python's pairs; returns their hash."""
    lines = [json.dumps(asdict(pair), ensure_ascii=False) for pair in documented()]
    head = {"python": platform.python_version(), "hash": digest(documented())}
    file.write_text("\n".join([json.dumps(head), *lines, ""]), encoding="utf-8")
    return head["hash"]


def read(file: Path) -> tuple[str, tuple[Described, ...]]:
    """The Python a file is of, and its pairs.

    Raises:
        ValueError: it is not there, of another form, or was changed.
    """
    cure = f"write it with: vlp-bench data docstrings {file}"
    if not file.is_file():
        raise ValueError(f"no pairs at {file}; {cure}")
    try:
        head, *lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
        python, told, pairs = str(head["python"]), head["hash"], tuple(Described(**line) for line in lines)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} is no file of pairs ({type(error).__name__}); {cure}") from error
    if digest(pairs) != told:
        raise ValueError(f"{file}: its pairs are not those that were written, by their hash; {cure}")
    return python, pairs


def digest(pairs: Sequence[Described]) -> str:
    """Sixteen hex digits that stand for pairs and their splits."""
    content = json.dumps([asdict(pair) for pair in pairs], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
