import hashlib

import numpy as np
import pytest
import torch

from tests.pruning.toys import sequential
from vlp_bench.pruning import weights_hash
from vlp_bench.pruning.weights_hash import hash_of, hash_of_weights


def test_hash_by_hand():
    expected = hashlib.sha256(b"atorch.float32(2,)" + np.array([1, 2], "<f4").tobytes()).hexdigest()
    assert hash_of({"a": torch.tensor([1.0, 2.0])}) == expected


def test_hash_sees_names_types_and_values():
    hashes = {
        hash_of(t)
        for t in ({"a": torch.ones(2)}, {"b": torch.ones(2)}, {"a": torch.ones(2).half()}, {"a": torch.zeros(2)})
    }
    assert len(hashes) == 4


def weights(model):
    return {name: p for name, p in model.named_parameters() if p.ndim == 2}


def test_a_model_is_hashed_once(monkeypatch):
    calls = []
    monkeypatch.setattr(weights_hash, "hash_of", lambda given: calls.append(1) or hash_of(given))
    model = sequential()
    assert hash_of_weights(model, weights(model)) == hash_of_weights(model, weights(model)) == hash_of(weights(model))
    assert len(calls) == 1
    part = {"0.weight": model[0].weight}
    assert hash_of_weights(model, part) == hash_of(part)
    assert hash_of_weights(sequential(), weights(model)) == hash_of(weights(model))
    assert len(calls) == 3


def counted(p):
    with torch.no_grad():
        p[0, 0] += 1


def by_data(p):
    p.data[1, 2] = 5.0


def by_numpy(p):
    p.detach().numpy()[3, 3] *= -1


def rows_swapped(p):
    p.data[[0, 1]] = p.data[[1, 0]]


def whole(p):
    p.data = torch.full_like(p, 0.25)


@pytest.mark.parametrize("change", [counted, by_data, by_numpy, rows_swapped, whole])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_every_change_is_seen(change, dtype):
    model = sequential()
    if change is by_numpy and dtype is torch.bfloat16:
        dtype = torch.float16
    model = model.to(dtype)
    before = hash_of_weights(model, weights(model))
    change(model[2].weight)
    after = hash_of_weights(model, weights(model))
    assert after == hash_of(weights(model)) != before


@pytest.mark.parametrize(("dtype", "every"), [(torch.float32, 2), (torch.bfloat16, 4), (torch.float64, 1)])
def test_signs_whose_bits_go_under_in_sums_are_seen(dtype, every):
    model = torch.nn.Linear(16, 8).to(dtype)
    before = hash_of_weights(model, weights(model))
    model.weight.data[:, every - 1 :: every].neg_()  # the top bits of eight bytes, an even number a row and a column
    after = hash_of_weights(model, weights(model))
    assert after == hash_of(weights(model)) != before
