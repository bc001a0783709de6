import hashlib

import numpy as np
import pytest
import torch

from vlp_bench.pruning.masks import bit_packing as positions
from vlp_bench.pruning.masks.bit_packing import COLUMNS, ROWS, entropy, fetch, pack, store, unpack
from vlp_bench.pruning.masks.range_coder import ONE, decode, encode
from vlp_bench.pruning.solution import Solution

KEPT = (0.37, 0.25, 0.1)  # of 63, 75 and 90 % sparsity


def random(*shape, kept=0.1, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < kept


def uneven(rows, columns, seed=0):
    """A mask whose rows and columns differ in density, as MULTIFLOW's do."""
    draw = torch.Generator().manual_seed(seed)
    odds = torch.randn(rows, 1, generator=draw) + torch.randn(columns, generator=draw) - 2
    return torch.rand(rows, columns, generator=draw) < odds.sigmoid()


def bits(tensors):
    return 8 * sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def test_bits_by_hand():
    mask = torch.tensor([[True, False, False], [True, True, False], [False, False, True]])
    assert pack(mask).tolist() == [0b00011001, 0b1]
    assert unpack(pack(mask), (3, 3)).equal(mask)
    with pytest.raises(ValueError, match="no mask of shape"):
        unpack(pack(mask), (3, 2))


def test_code_by_hand():
    """One bit of probability 1/2 doubles the state: x = 2¹⁶, f = 2¹¹, start 0 for true and 2¹¹ for false."""
    half = np.array([ONE // 2], np.uint16)
    assert encode(np.array([True]), half).tolist() == [0, 2]  # 2¹⁷, lower half first
    assert encode(np.array([False]), half).tolist() == [ONE // 2, 2]
    assert decode(np.array([0, 2], np.uint16), half).tolist() == [True]


@pytest.mark.parametrize("count", [1, 2, 4095, 8192, 8193, 50_000])
def test_codes_come_back(count):
    draw = np.random.default_rng(count)
    chances = draw.integers(1, ONE, count).astype(np.uint16)
    mask = draw.random(count) < chances / ONE
    assert np.array_equal(decode(encode(mask, chances), chances), mask)
    assert np.array_equal(decode(encode(~mask, chances), chances), ~mask)  # improbable, not impossible


def test_damaged_codes_are_refused():
    mask, chances = np.arange(9000) % 7 == 0, np.full(9000, ONE // 7, np.uint16)
    code = encode(mask, chances)
    with pytest.raises(ValueError, match="can't hold 9000 bits"):
        decode(code[:3], chances)
    with pytest.raises(ValueError, match="ends too early"):
        decode(code[:-1], chances)
    with pytest.raises(ValueError, match="damaged"):
        decode(np.append(code, np.uint16(0)), chances)
    code[-1] ^= 1
    with pytest.raises(ValueError, match=r"damaged|too early"):
        decode(code, chances)


def test_the_table_of_chances_is_the_same_everywhere():
    """Readers and writers on different machines must agree on it."""
    assert positions._CHANCES[[0, 111, 127, 143, 254]].tolist() == [1, 1102, 2048, 2994, 4095]
    digest = hashlib.sha256(positions._CHANCES.astype("<u2").tobytes()).hexdigest()
    assert digest[:16] == "a9c2a6a2c9216df2"


@pytest.mark.parametrize("form", positions.FORMS)
def test_any_masks_come_back(form):
    masks = [
        random(64, 48), random(1, 9), random(5), random(3, 4, 5, kept=0.5), torch.ones(6, 6).bool(),
        torch.zeros(7, 3).bool(), uneven(300, 200), torch.zeros(0, 4).bool(),
    ]  # fmt: skip
    tensors = store(masks, form)
    back = fetch(tensors, [tuple(mask.shape) for mask in masks], form)
    assert all(a.equal(b) for a, b in zip(back, masks, strict=True))
    assert not tensors


@pytest.mark.parametrize("kept", KEPT)
def test_random_masks_cost_their_entropy(kept):
    masks = [random(768, 768, kept=kept, seed=i) for i in range(2)]
    assert bits(store(masks, "compact")) <= 1.03 * entropy(masks)


def test_rows_and_columns_that_differ_are_used():
    masks = [uneven(512, 512), random(512, 512)]
    tensors = store(masks, "compact")
    assert tensors["flags"].tolist() == [ROWS | COLUMNS, 0]
    assert bits(tensors) < 0.92 * entropy(masks)
    assert store([uneven(512, 1)], "compact")["flags"].tolist() == [0]


def test_layers_are_coded_in_groups(monkeypatch):
    monkeypatch.setattr(positions, "GROUP", 1000)
    masks = [random(20, 20, seed=i) for i in range(5)] + [random(40, 40)]
    tensors = store(masks, "compact")
    assert len(tensors["lengths"]) == 4
    back = fetch(tensors, [tuple(mask.shape) for mask in masks], "compact")
    assert all(a.equal(b) for a, b in zip(back, masks, strict=True))


def test_entropy_by_hand():
    assert entropy([torch.tensor([True, False, False, False])]) == pytest.approx(4 * 0.8112781, rel=1e-6)
    assert entropy([torch.ones(9)]) == pytest.approx(0, abs=1e-6)


def test_unknown_forms_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown form 'small': use one of plain, compact"):
        Solution({"w": random(4, 4)}).save(tmp_path / "m", form="small")


@pytest.mark.parametrize("form, most", [("plain", 1.02), ("compact", 0.5)])
def test_files_of_many_layers(form, most, tmp_path):
    masks = {f"tower.layers.{i}.part.weight": random(256, 256, seed=i) for i in range(8)}
    layers = {
        name: {"kept": int(mask.sum()), "total": mask.numel(), "modality": "text", "block": name[:14]}
        for name, mask in masks.items()
    }
    path = Solution(masks, {}, {"method": "x", "layers": layers}).save(tmp_path / "m", form=form)
    assert path.stat().st_size * 8 <= most * 8 * 256 * 256
    back = Solution.load(path)
    assert list(back.masks) == list(masks)
    assert all(back.masks[name].equal(mask) for name, mask in masks.items())
    assert back.report["layers"] == layers
