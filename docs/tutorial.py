"""Runs docs/tutorial.ipynb, stores what its cells print in it, and writes docs/tutorial.md, the site's page, from it.

python docs/tutorial.py            minutes: cells run in a new folder
python docs/tutorial.py --check    whether the page is that of the notebook
"""

import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
NOTEBOOK, PAGE = DOCS / "tutorial.ipynb", DOCS / "tutorial.md"


def read() -> dict[str, Any]:
    """The notebook."""
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))


def run(cells: list[dict[str, Any]]) -> Iterator[str]:
    """What each cell prints, run one after the other in one namespace; texts print nothing."""
    names: dict[str, Any] = {}
    for number, cell in enumerate(cells):
        said = io.StringIO()
        if cell["cell_type"] == "code":
            with contextlib.redirect_stdout(said):
                exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
        yield said.getvalue()


def printed(cell: dict[str, Any]) -> str:
    """What a cell printed when the notebook was stored."""
    return "".join(line for output in cell.get("outputs", ()) for line in output["text"])


def page(notebook: dict[str, Any]) -> str:
    """The notebook as Markdown: texts, code, and what it printed."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        if said := printed(cell).rstrip():
            parts.append(f"```text\n{said}\n```")
    return "\n\n".join(parts) + "\n"


def stored(notebook: dict[str, Any], said: list[str]) -> dict[str, Any]:
    """The notebook with what its cells printed."""
    count = 0
    for cell, text in zip(notebook["cells"], said, strict=True):
        if cell["cell_type"] == "code":
            count += 1
            lines = text.splitlines(keepends=True)
            output = {"name": "stdout", "output_type": "stream", "text": lines}
            cell |= {"execution_count": count, "outputs": [output] if lines else []}
    return notebook


def main() -> None:
    """Run and store, or check."""
    notebook = read()
    if sys.argv[1:] == ["--check"]:
        if PAGE.read_text(encoding="utf-8") != page(notebook):
            sys.exit("docs/tutorial.md is not the notebook's: run python docs/tutorial.py")
        return
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        notebook = stored(notebook, list(run(notebook["cells"])))
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(notebook), encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("COLUMNS", "100")
    main()
