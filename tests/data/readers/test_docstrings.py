"""Pairs of Python's standard library: what is taken, how it is dealt, and the file they are written to."""

import ast
import json
import platform
from dataclasses import replace

import pytest

from vlp_bench.data.readers import docstrings
from vlp_bench.data.readers.docstrings import documented

SOURCE = '''
class HTTPThing:
    def setDebug_level(self, level: int = 0):
        """Say more
        of what happens.

        A second paragraph.
        """
    def _hidden(self):
        """Nobody may call this one."""
    def undocumented(self): ...
    def signature(self):
        """signature(self) -> nothing at all"""
    def short(self):
        """Too few words."""
async def wait_for(event, *, timeout=None):
    """Wait until an event happens."""
'''


def test_what_is_taken_of_a_module_by_hand():
    assert list(docstrings._functions(ast.parse(SOURCE))) == [
        ("HTTPThing set Debug level(level: int=0)", "Say more of what happens."),
        ("wait for(event, *, timeout=None)", "Wait until an event happens."),
    ]


def test_a_module_goes_where_it_fits_first():
    """By the hashes of their names they come in the order d, c, b, e, a."""
    counts = {"a": 300, "b": 700, "c": 1, "d": 900, "e": 5000}
    assert docstrings._dealt(counts) == {"d": "test", "a": "val", "e": "train", "b": "train", "c": "test"}


def test_no_module_is_in_two_splits_and_no_description_is_said_twice():
    pairs = documented()
    assert len(pairs) > 3000
    assert len({(pair.module, pair.split) for pair in pairs}) == len({pair.module for pair in pairs})
    assert len({pair.text.lower() for pair in pairs}) == len(pairs)
    counts = {split: sum(pair.split == split for pair in pairs) for split in ("train", "val", "test")}
    assert 900 <= counts["test"] <= 1000
    assert 200 <= counts["val"] <= 300
    assert counts["train"] > 2000
    [copy] = [pair for pair in pairs if pair.module == "copy" and pair.name == "deepcopy(x, memo=None, _nil=[])"]
    assert copy.text == "Deep copy operation on arbitrary Python objects."


def test_a_file_is_read_as_it_was_written(tmp_path):
    file = tmp_path / "pairs.jsonl"
    told = docstrings.write(file)
    assert told == docstrings.digest(documented())
    assert docstrings.read(file) == (platform.python_version(), documented())


def test_a_changed_file_is_refused(tmp_path):
    file = tmp_path / "pairs.jsonl"
    docstrings.write(file)
    head, first, *rest = file.read_text(encoding="utf-8").splitlines()
    changed = json.loads(first) | {"split": "test"}
    file.write_text("\n".join([head, json.dumps(changed), *rest]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"not those that were written.*vlp-bench data docstrings"):
        docstrings.read(file)
    file.write_text("[]\n", encoding="utf-8")
    with pytest.raises(ValueError, match="is no file of pairs"):
        docstrings.read(file)
    with pytest.raises(ValueError, match="no pairs at"):
        docstrings.read(tmp_path / "gone")


def test_the_hash_tells_splits_apart():
    one = docstrings.Described("train", "json", "dump(obj)", "Write an object to a file.")
    assert docstrings.digest([one]) != docstrings.digest([replace(one, split="test")])
