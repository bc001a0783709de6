"""Several sparsities at once: a mapping that knows what is there."""

import copy
import pickle

import numpy as np
import pytest

import vlp_bench
from tests.pruning.toys import sequential


@pytest.fixture
def several():
    return vlp_bench.prune(sequential(), "omp", [0.63, 0.75, 0.9])


def test_what_is_there(several):
    assert isinstance(several, vlp_bench.Solutions)
    assert list(several) == [0.63, 0.75, 0.9]
    assert len(several) == len(several.values()) == 3
    assert repr(several) == "<Solutions of omp for 0.63, 0.75, 0.9>"
    assert {sparsity: solution.kept for sparsity, solution in several.items()} == {0.63: 56, 0.75: 38, 0.9: 15}


def test_a_sparsity_is_found_whatever_its_type_and_last_digits(several):
    for key in (0.63, np.float32(0.63), 1 - 0.37, np.float64(0.63)):
        assert several[key] is several[0.63]
        assert key in several
    assert 0.630002 not in several
    assert several.get(0.5) is None


@pytest.mark.parametrize("key", [0.5, "0.63", 63, None])
def test_what_is_not_there_is_answered_with_what_is(several, key):
    with pytest.raises(KeyError) as error:
        several[key]
    assert error.value.args == (f"there is no solution for sparsity {key!r}: there are 0.63, 0.75, 0.9",)


def test_attributes_of_the_only_one(several):
    one = vlp_bench.prune(sequential(), "omp", [0.75])
    assert one.masks is one[0.75].masks
    assert (one.kept, one.sparsity, one.report["method"]) == (38, one[0.75].sparsity, "omp")
    model = sequential()
    one.install(model)
    assert int((model[0].weight == 0).sum()) == int((~one.masks["0.weight"]).sum())
    with pytest.raises(AttributeError, match=r"which masks\? There are solutions for 0.63, 0.75, 0.9: result\[SPARS"):
        several.masks  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'mask'"):
        several.mask  # noqa: B018


def test_copies(several):
    for other in (copy.copy(several), copy.deepcopy(several), pickle.loads(pickle.dumps(several))):
        assert repr(other) == repr(several)
        assert other[0.9].masks["0.weight"].equal(several[0.9].masks["0.weight"])
