"""Damaged masks, statistics, checkpoints, weights and results: told in a line, or read as they were written."""

import json
import random
import re

import pytest
import torch

from tests.results.test_row import row
from vlp_bench.models.checkpoints.read_write import load_model, save_model, weights_hash
from vlp_bench.models.xvlm.model import XVLM
from vlp_bench.models.xvlm.towers import XVLMConfig
from vlp_bench.pruning.masks import file_format as masks
from vlp_bench.pruning.statistics.on_disk import StatisticsFolder, StoredStatistics
from vlp_bench.results.store import Store
from vlp_bench.runs.checkpointing import WholeFiles, read_checkpoint
from vlp_bench.runs.terminal.errors import explain

CASES = [60, pytest.param(500, marks=pytest.mark.slow)]
FOREIGN = (
    b"", b"\0" * 64, b"{}", b"[" * 5000, b"\x80\x04N.", b"PK\x05\x06" + b"\0" * 18, b"\xff" * 100,
    b"\xff\xff\xff\xff\xff\xff\xff\x7f{}", (2).to_bytes(8, "little") + b"{}",
)  # fmt: skip
VALUES = (b"NaN", b"-1", b"1e999", b"99999999999999999999", b"null", b'"x"', b"[]", b"true", b"4611686018427387904")


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The content with some bytes changed, cut off, put in, or with a number of its header exchanged."""
    kind = chance.choice(("flip", "flip", "bit", "cut", "insert", "blank", "number", "number", "foreign"))
    at = chance.randrange(len(content))
    if kind == "flip":
        at = chance.randrange(min(len(content), chance.choice((16, 400, len(content)))))
        return content[:at] + bytes([content[at] ^ chance.randrange(1, 256)]) + content[at + 1 :]
    if kind == "bit":
        return content[:at] + bytes([content[at] ^ (1 << chance.randrange(8))]) + content[at + 1 :]
    if kind == "cut":
        return content[:at]
    if kind == "insert":
        return content[:at] + chance.randbytes(chance.randrange(1, 40)) + content[at:]
    if kind == "blank":
        return content[:at] + b"\0" * min(64, len(content) - at) + content[at + 64 :]
    return _renumbered(content, chance) if kind == "number" else chance.choice(FOREIGN)


def _renumbered(content: bytes, chance: random.Random) -> bytes:
    """One number of a safetensors header, or of a line, exchanged for something else; lengths are put right."""
    length = int.from_bytes(content[:8], "little")
    framed = 8 + length <= len(content)
    text = content[8 : 8 + length] if framed else content
    numbers = list(re.finditer(rb"\d+", text))
    if not numbers:
        return b""
    found = chance.choice(numbers)
    text = text[: found.start()] + chance.choice(VALUES) + text[found.end() :]
    return len(text).to_bytes(8, "little") + text + content[8 + length :] if framed else text


def refused_or(read, path, same) -> None:
    """`read` raises what a user is told in a line that names the file, or gives something that is the `same`."""
    refusal, found = None, None
    try:
        found = read()
    except (ValueError, OSError) as error:
        refusal = error
    assert same(found) if refusal is None else str(path) in (explain(refusal) or "")


def equal(first, second) -> bool:
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("cases", CASES)
@pytest.mark.parametrize("form", ("plain", "compact"))
def test_masks(tmp_path, cases, form):
    draw = torch.Generator().manual_seed(0)
    given = {name: torch.rand(6, 9, generator=draw) > 0.7 for name in ("block.one", "block.two", "alone")}
    weights = {"block.one": torch.rand(6, 9, generator=draw) * given["block.one"]}
    report = {"method": "x", "layers": {name: {"modality": "text", "block": "block"} for name in given}}
    path = masks.write(tmp_path / "m.safetensors", given, weights, report, form)
    whole, chance = path.read_bytes(), random.Random(form)

    def same(found):
        return equal(found[0], given) and equal(found[1], weights)

    assert same(masks.read(path))
    for _ in range(cases):
        path.write_bytes(damaged(whole, chance))
        refused_or(lambda: masks.read(path), path, same)


@pytest.mark.parametrize("cases", CASES)
def test_statistics_are_made_again(tmp_path, cases):
    archive, given = StatisticsFolder(tmp_path), {"a": torch.rand(7, dtype=torch.float64), "b": torch.rand(3)}
    shapes = {name: tuple(tensor.shape) for name, tensor in given.items()}
    archive.save("norms", StoredStatistics({"norms": given}, "abc", [1.0]))
    file = archive.file("norms")
    whole, chance = file.read_bytes(), random.Random(1)
    refused = 0
    for _ in range(cases):
        file.write_bytes(damaged(whole, chance))
        found = archive.load("norms", shapes, torch.device("cpu"))
        refused += found is None
        assert found is None or (equal(found.tensors["norms"], given) and found.data_hash == "abc")
    assert refused > cases / 2
    file.write_bytes(whole)
    assert archive.load("norms", shapes, torch.device("cpu")) is not None
    assert archive.load("norms", shapes | {"b": (4,)}, torch.device("cpu")) is None


@pytest.mark.parametrize("cases", CASES)
def test_checkpoints(tmp_path, cases):
    path, state = tmp_path / "last.ckpt", {"w": torch.rand(5, 5), "b": torch.rand(5)}
    WholeFiles().save_checkpoint({"state_dict": state, "epoch": 3}, path)
    whole, chance = path.read_bytes(), random.Random(2)
    for _ in range(cases):
        path.write_bytes(damaged(whole, chance))
        refused_or(
            lambda: read_checkpoint(path), path, lambda found: equal(found["state_dict"], state) and found["epoch"] == 3
        )


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    import os
    import pickle

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    (tmp_path / "last.ckpt").write_bytes(pickle.dumps({"state_dict": {"w": Evil()}}))
    with pytest.raises(ValueError, match=r"cannot be resumed from .* force=true"):
        read_checkpoint(tmp_path / "last.ckpt")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("cases", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_weights(tmp_path, cases):
    """A changed byte among the weights is another file: its hash is part of a run's identity."""
    config = XVLMConfig(
        image_size=16, patch_size=8, vision_width=4, vision_layers=1, vision_heads=1, local_attn_depth=1, text_width=4,
        text_layers=2, fusion_layers=1, text_heads=1, vocab_size=6, embed_dim=4, max_positions=4,
    )  # fmt: skip
    path = save_model(tmp_path / "w.safetensors", XVLM(config))
    whole, known, chance = path.read_bytes(), weights_hash(path), random.Random(3)
    for _ in range(cases):
        path.write_bytes(damaged(whole, chance))
        refused_or(lambda: load_model(path), path, lambda found: weights_hash(path) != known)


@pytest.mark.parametrize("cases", CASES)
def test_results(tmp_path, cases):
    rows = [row(metric=metric, rows=3, value=value) for metric, value in (("a", 1.5), ("b", 22.25), ("c", 60.0))]
    path = Store(tmp_path).append("one", rows)
    whole, chance = path.read_bytes(), random.Random(4)
    for _ in range(cases):
        content = damaged(whole, chance)
        path.write_bytes(content)
        store = Store(tmp_path)
        found = list(store.rows())
        assert all(one in rows for one in found)
        assert len(found) == len(rows) or store.problems or not content
        assert set(store.query()["value"]) <= {1.5, 22.25, 60.0}
        store.done("abc")


def test_rows_without_a_sum_are_read_if_their_types_are_right(tmp_path):
    content = json.loads(row().to_json())
    del content["sum"]
    path = Store(tmp_path).append("one", [row()])
    path.write_text(json.dumps(content) + "\n")
    assert list(Store(tmp_path).rows()) == [row()]
    for name, value in {"seed": "0", "value": True, "rows": 1.5, "provenance": [], "metric": 3}.items():
        path.write_text(json.dumps(content | {name: value}) + "\n")
        store = Store(tmp_path)
        assert list(store.rows()) == []
        assert "line 1 is ignored" in store.problems[0]
