"""The program of docs/evaluate.md runs as it stands, and its formats and prompts are the code's."""

import re
from pathlib import Path

import torch

from vlp_bench.tasks.foreign import answering
from vlp_bench.tasks.foreign.evaluate import formats_of, task_names

PAGE = (Path(__file__).parents[1] / "docs" / "evaluate.md").read_text(encoding="utf-8")


def test_the_program(capsys):
    [program] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(compile(program, "evaluate.md", "exec"), {"__name__": "program"})
    dense, pruned = map(float, capsys.readouterr().out.split())
    assert 0 <= dense <= 100
    assert 0 <= pruned <= 100


def test_every_task_has_a_line_with_its_formats():
    for task in task_names():
        [line] = [line for line in PAGE.splitlines() if line.startswith(f"| `{task}` | ") and line.count("|") == 5]
        told = set(re.findall(r"`([a-z0-9_]+)`", line.split("|")[3]))
        assert told == set(formats_of(task)) or (task == "captioning" and "as for retrieval" in line), task


def test_prompts_are_those_of_the_code():
    for prompt in (answering.ASKED, answering.DESCRIBED, answering.DESCRIBED_IN_CHAT):
        assert f"`{prompt}`" in PAGE
    first, second = answering.ASKED_IN_CHAT.split("\n")
    assert f"`{first}`, a new line, `{second}`" in PAGE
