"""Damaged files: what is read is what the whole file says, or something is said. The tool has thousands more."""

import json
import random
from collections import Counter
from functools import partial

import pytest

from benchmarks.endurance import damaged_files as tool
from benchmarks.endurance.damage import FORMS, another
from benchmarks.endurance.damaged_files import Kind, tried, verdict

MADE = {
    "data": tool.data_kinds, "results": tool.result_kinds, "tensors": tool.tensor_kinds,
    "configs": tool.config_kinds, "folders": tool.folder_kinds,
}  # fmt: skip


@pytest.mark.parametrize("each", [16, pytest.param(250, marks=pytest.mark.slow)])
@pytest.mark.parametrize("room", MADE)
def test_a_damaged_file_is_told_or_read_as_it_was(tmp_path, room, each):
    (tmp_path / room).mkdir()
    root = tmp_path / room / "made" if room == "data" else tmp_path / room
    counts, faults = Counter(), []
    for kind in list(MADE[room](root)):
        found, wrong = tried(kind, each, 1, lambda text: None)
        counts += found
        faults += wrong
    assert faults == []
    assert counts["refused"] + counts["told"] > counts.total() / 2


# Whether the tool would notice


RECORDS = [{"id": n, "image": f"{n}.jpg", "caption": f"picture {n}"} for n in range(4)]


def kind(tmp_path, read, form="json"):
    file = tmp_path / "a.json"
    file.write_text(json.dumps(RECORDS))
    return Kind(file, form, partial(read, file), root=tmp_path)


def careless(file):
    return {record.get("image"): record.get("caption") for record in json.loads(file.read_text())}


def test_a_reader_that_does_not_look_is_found_out(tmp_path):
    counts, faults = tried(kind(tmp_path, careless), 200, 0, lambda text: None)
    assert counts["silent wrong"] > 10
    assert counts["traceback"] > 3
    assert counts["does not name the file"] > 10
    assert len(faults) == counts["silent wrong"] + counts["traceback"] + counts["does not name the file"]


ROW = json.dumps(RECORDS[0])
OTHERS = {
    "another letter": (json.dumps([*RECORDS[:3], RECORDS[3] | {"caption": "pixture 3"}]), "another file"),
    "fewer": (json.dumps(RECORDS[:3]), "another file"),
    "a record twice": (json.dumps([*RECORDS, RECORDS[1] | {"image": "9.jpg"}]), "silent wrong"),
    "a key twice": (json.dumps(RECORDS).replace('"picture 3"', '"x", "caption": "y"'), "silent wrong"),
    "another kind": (json.dumps([*RECORDS[:3], RECORDS[3] | {"caption": None}]), "silent wrong"),
    "a key that is gone": (json.dumps([*RECORDS[:3], {"id": 3, "image": "3.jpg"}]), "silent wrong"),
    "spaces": (json.dumps(RECORDS, indent=1), "same"),
    "cut off": (json.dumps(RECORDS)[:40], "does not name the file"),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_what_counts_as_what(tmp_path, what):
    found = kind(tmp_path, careless)
    whole, (content, expected) = found.file.read_bytes(), OTHERS[what]
    assert verdict(found, content.encode(), whole, repr(careless(found.file)), None)[0] == expected


def test_a_file_with_a_fingerprint_counts_as_another_only_with_another_fingerprint(tmp_path):
    found = kind(tmp_path, careless)
    whole, content = found.file.read_bytes(), OTHERS["another letter"][0].encode()
    for identity, expected in ((lambda: "same", "silent wrong"), (lambda: "other", "another file")):
        marked = Kind(found.file, "json", found.read, identity, tmp_path)
        assert verdict(marked, content, whole, repr(careless(found.file)), "same")[0] == expected
        found.file.write_bytes(whole)


SETTINGS = {
    "another value": (b'{"a": 1, "b": "y"}', True), "a key that is gone": (b'{"a": 1}', True),
    "a key twice": (b'{"a": 1, "a": 2}', False), "a list": (b"[1]", False), "cut off": (b'{"a"', False),
}  # fmt: skip


@pytest.mark.parametrize("what", SETTINGS)
@pytest.mark.parametrize("form", ["settings", "yaml"])
def test_which_settings_are_another_whole_file(form, what):
    content, expected = SETTINGS[what]
    assert another(form, b'{"a": 1, "b": "x"}', content) == expected or (form, what) == ("yaml", "a list")


def test_a_form_with_a_checksum_is_never_another_file():
    assert not another("zip", b"a", b"b")
    assert not another("safetensors!", b"a", b"b")


def test_every_damage_changes_what_it_damages():
    data = json.dumps(RECORDS * 3, indent=1).encode()
    for damage in {*FORMS["json"], *FORMS["text"], *FORMS["bytes"]}:
        assert sum(damage(data, random.Random(seed)) != data for seed in range(10)) >= 7, damage
