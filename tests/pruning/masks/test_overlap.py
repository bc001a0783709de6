import pytest
import torch

from vlp_bench.pruning.masks.overlap import Overlap, diff, overlap


def test_overlap_by_hand():
    a, b = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    assert overlap(a, b) == Overlap(2, 2, 1)
    assert overlap(a, b).iou == 1 / 3
    assert overlap(a, b).differ == 2
    assert (overlap(a, b) + overlap(a, a)).iou == 3 / 5
    assert overlap(~(a | ~a), ~(a | ~a)).iou == 1.0


def test_diff_needs_the_same_layers():
    masks = {name: torch.rand(3, 4) > 0.5 for name in ("0.weight", "4.weight")}
    assert all(entry.iou == 1 for entry in diff(masks, masks).values())
    with pytest.raises(ValueError, match=r"only one of the two has a mask for 4.weight"):
        diff(masks, {name: mask for name, mask in masks.items() if name != "4.weight"})
    with pytest.raises(ValueError, match="can't be compared"):
        diff({"w": torch.ones(2)}, {"w": torch.ones(3)})
