"""Writes docs/keys.md: every key of the configuration with its default and what its yaml says of it.

python docs/keys.py          # writes the page
python docs/keys.py --check  # exit code 1 if the page is out of date
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "keys.md"
HEAD = """# Every key of the configuration

Written by `python docs/keys.py` from the yaml files in `conf/`; defaults and remarks stand in the file named above each
table. A key of a group is written `group.key=value` on the command line, a choice `group=choice`. `${...}` takes
the value of another key.
"""
TYPED = {"evaluation": "vlp-bench evaluate task", "evaluation/exp": "vlp-bench run, compare, prune, evaluate +exp"}
"""Groups that are typed otherwise than they are called."""
Entry = tuple[str, str, str]  # key, default, remark


def entries(text: str) -> Iterator[Entry]:
    """Every leaf of a yaml file; the remark is the comment on its line."""
    lines = text.splitlines()
    node = yaml.compose(text)
    if node is not None:
        yield from _leaves(node, "", lines)


def _leaves(node: yaml.Node, prefix: str, lines: list[str]) -> Iterator[Entry]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value not in ("defaults", "hydra"):
                yield from _leaves(value, f"{prefix}.{key.value}".lstrip("."), lines)
    else:
        line = lines[node.start_mark.line]
        shown = (
            line[node.start_mark.column : node.end_mark.column] if node.start_mark.line == node.end_mark.line else "…"
        )
        yield prefix, shown.split(" #")[0].strip(), line.partition(" #")[2].strip()


def remark(text: str) -> str:
    """The comment at the head of a yaml file, without package directives."""
    head = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            head.append(line.removeprefix("#").strip())
    return " ".join(head)


def section(file: Path) -> str:
    """One file: its head comment and the table of its keys."""
    text, place = file.read_text(encoding="utf-8"), file.relative_to(ROOT / "conf")
    group = ".".join(place.parts[:-1])
    title = _title(file.stem, "/".join(place.parts[:-1]))
    prefix = _prefix(text, group)
    rows = [f"| `{prefix}{key}` | `{_cell(default)}` | {_cell(said)} |" for key, default, said in entries(text)]
    table = "\n".join(["| key | default | remark |", "|---|---|---|", *rows]) if rows else ""
    return f"### {title}\n`conf/{place}`: {remark(text)}\n\n{table}\n"


def _prefix(text: str, group: str) -> str:
    """What stands before the keys of a file: its package directive, or its group."""
    found = re.match(r"# @package (\S+)", text)
    package = found[1] if found else group
    return "" if package in ("", "_global_") else f"{package}."


def _title(stem: str, group: str) -> str:
    """What is typed to choose a file; those whose name starts with _ are not chosen but built upon."""
    group = TYPED.get(group, group)
    if stem.startswith("_"):
        return f"{group}: shared ({stem})"
    return f"{group}={stem}" if group else "Top level"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def page() -> str:
    """The whole page: the top level, then group by group."""
    parts = [HEAD, section(ROOT / "conf" / "config.yaml")]
    for group in sorted(folder for folder in (ROOT / "conf").iterdir() if folder.is_dir()):
        parts.append(f"## {group.name}\n")
        parts += [section(file) for file in sorted(group.rglob("*.yaml"))]
    return "\n".join(parts)


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        if PAGE.read_text(encoding="utf-8") != page():
            sys.exit("docs/keys.md does not list the keys of conf/: run python docs/keys.py")
        sys.exit()
    PAGE.write_text(page(), encoding="utf-8")
