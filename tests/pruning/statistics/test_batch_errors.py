"""A batch that a model of the user's own can't take is named, with its shapes, in one line."""

import pytest
import torch

import vlp_bench
from tests.pruning.toys import labelled, sequential

GOOD = labelled()
LABELS = torch.zeros(5, dtype=torch.int64)
BAD = {
    "another width": ((torch.randn(5, 7), LABELS), r"batch 1 \(5x7 float32, 5 int64\): (mat1|The size)"),
    "another type": (
        (torch.randn(5, 6).double(), LABELS),
        r"batch 1 \(5x6 float64, 5 int64\): mat1 and mat2 must have",
    ),
    "no tensor": (5, r"batch 1 \(int\): |type int holds no tensor"),
}


@pytest.mark.parametrize("pruner", ["wanda", "snip"])
@pytest.mark.parametrize(("batch", "reason"), BAD.values(), ids=BAD.keys())
def test_the_batch_is_named(pruner, batch, reason):
    with pytest.raises(ValueError, match=reason) as raised:
        vlp_bench.prune(sequential(), pruner, 0.5, [GOOD[0], batch])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("pruner", ["wanda", "sparsegpt", "snip", "chita"])
@pytest.mark.parametrize("batch", [torch.randn(5, 7), torch.randn(5, 6).double(), "a text"])
def test_so_is_the_first_one(pruner, batch):
    """Which a pruner that goes block by block looks at before its pass, for the order of the layers."""
    with pytest.raises(ValueError, match=r"the model can't take calibration batch 0 \((5x\d float\d\d|str)"):
        vlp_bench.prune(sequential(), pruner, 0.5, [(batch, LABELS)])


def test_a_value_error_of_the_model_is_named_and_one_of_ours_stays_as_it_is():
    with pytest.raises(
        ValueError, match=r"^the model can't take calibration batch 0 \(5x6 float32, 3 int64\): Expected"
    ):
        vlp_bench.prune(sequential(), "snip", 0.5, [(torch.randn(5, 6), LABELS[:3])])
    with pytest.raises(ValueError, match=r"^a label is -1, but the model gives"):
        vlp_bench.prune(sequential(), "snip", 0.5, [(torch.randn(5, 6), LABELS - 1)])


@pytest.mark.parametrize("labels", [torch.rand(5), torch.zeros(5, 2, dtype=torch.int64)])
def test_labels_that_are_none_are_named(labels):
    with pytest.raises(ValueError, match=r"the model can't take calibration batch 0 \(5x6 float32, 5"):
        vlp_bench.prune(sequential(), "snip", 0.5, [(torch.randn(5, 6), labels)])


def test_running_out_of_memory_is_no_fault_of_the_batch(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("out of memory")

    model = sequential()
    monkeypatch.setattr(model[0], "forward", full)
    with pytest.raises(torch.OutOfMemoryError):
        vlp_bench.prune(model, "wanda", 0.5, GOOD)
