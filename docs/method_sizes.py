"""Writes the table of docs/your-pruner.md: how much code each method is, by the source text.

python docs/method_sizes.py

A definition belongs to a method if the parts that its yaml names come to it, through the names used in the source of
vlp_bench/pruning; it is the method's own if those of no other method do, and rare if those of at most three others do.
"""

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from vlp_bench.pruning import catalogue
from vlp_bench.pruning.pruner import describe
from vlp_bench.results.tables import markdown

ROOT = Path(__file__).resolve().parents[1]
PAGE, PACKAGE = ROOT / "docs" / "your-pruner.md", ROOT / "vlp_bench" / "pruning"
BEGIN, END = "<!-- sizes: written by `python docs/method_sizes.py` -->\n", "<!-- end of sizes -->\n"
HOME = "vlp_bench.pruning"
FEW = 4  # methods that share what is rare
VARIANTS = ("multiflow_", "tamp_equal", "dense")  # of one method, or none
Definition = tuple[str, str]  # module, name


@cache
def definitions(module: str) -> dict[str, ast.stmt]:
    """The functions and classes of a module of vlp_bench.pruning by name."""
    file = PACKAGE.joinpath(*module.split(".")[2:]).with_suffix(".py")
    body = ast.parse(file.read_text(encoding="utf-8")).body if file.is_file() else []
    return {node.name: node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@cache
def imported(module: str) -> dict[str, Definition]:
    """What the names mean that a module imports from vlp_bench.pruning; of a module the name is empty."""
    file = PACKAGE.joinpath(*module.split(".")[2:]).with_suffix(".py")
    found = {}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(HOME):
            for alias in node.names:
                own = (str(node.module), alias.name)
                whole = f"{node.module}.{alias.name}"
                found[alias.asname or alias.name] = (whole, "") if definitions(whole) else own
    return found


def used(definition: Definition) -> Iterator[Definition]:
    """The definitions that the text of one names."""
    module, name = definition
    for node in ast.walk(definitions(module)[name]):
        if isinstance(node, ast.Name):
            yield imported(module).get(node.id, (module, node.id))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield imported(module).get(node.value.id, ("", ""))[0], node.attr


def reached(roots: set[Definition]) -> set[Definition]:
    """All definitions that come with some."""
    found, new = set[Definition](), set(roots)
    while new:
        found |= new
        new = {other for one in new for other in used(one) if other[1] in definitions(other[0])} - found
    return found


def targets(node: Any) -> Iterator[Definition]:
    """The parts of ours that a description names."""
    for value in node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ():
        yield from targets(value)
    target = node.get("_target_", "") if isinstance(node, Mapping) else ""
    module, _, name = str(target).rpartition(".")
    if module.startswith(HOME) and name in definitions(module):
        yield module, name


def sizes() -> dict[str, tuple[int, int, int, int]]:
    """Method -> lines of its yaml, of definitions of its own, files these are in, lines that few others share."""
    names = [name for name in catalogue.names() if not name.startswith(VARIANTS)]
    parts = {name: reached(set(targets(describe(catalogue.load(name))))) for name in names}
    users = Counter(definition for found in parts.values() for definition in found)
    sizes = {}
    for name, found in parts.items():
        own = {definition for definition in found if users[definition] == 1}
        rare = {definition for definition in found if 1 < users[definition] <= FEW}
        yaml = len((catalogue.folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines())
        sizes[name] = yaml, _lines(own), len({module for module, _ in own}), _lines(rare)
    return sizes


def _lines(found: set[Definition]) -> int:
    nodes: list[Any] = [definitions(module)[name] for module, name in found]
    return sum(node.end_lineno - min([node, *node.decorator_list], key=lambda n: n.lineno).lineno + 1 for node in nodes)


def text() -> str:
    """The page with its table."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    rows = [["method", "yaml", "lines of its own", "files", "lines with at most three others"]]
    rows += [[name, *map(str, counts)] for name, counts in sorted(sizes().items(), key=lambda item: item[1][1])]
    return before + BEGIN + markdown(rows) + "\n" + END + rest.partition(END)[2]


def main() -> None:
    """Write the table."""
    PAGE.write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
