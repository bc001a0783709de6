"""A pruned BLIP, stopped and resumed: zeros, momentum copies and queue are as if it had never stopped."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

import vlp_bench
from tests.tasks.conftest import tiny_data
from tests.tasks.test_retrieval import Kill, Killed, equal, saver, state
from tests.tasks.worlds import tiny
from vlp_bench.pruning.keep_pruned import KeepPruned
from vlp_bench.tasks.retrieval import Retrieval

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*exists and is not empty.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
]


def pruned() -> tuple[Retrieval, dict[str, Tensor]]:
    """The task on the same pruned BLIP each time, and its masks."""
    model = tiny("blip")
    solution = vlp_bench.prune(model, "omp", 0.75)
    task = Retrieval(model, pruner=solution.install, lr=1e-2, k_test=5, match_batch=16)
    return task, solution.masks


@pytest.mark.parametrize("when", [{"every_n_epochs": 1}, {"every_n_train_steps": 1}])
def test_a_killed_run_ends_with_the_same_weights(
    train: Callable[..., Trainer], tmp_path: Path, when: dict[str, int]
) -> None:
    settings = {"enable_checkpointing": True, "max_epochs": 3}
    whole, masks = pruned()
    data = tiny_data(sep=True)
    train(whole, saver(tmp_path / "whole", **when), KeepPruned(masks), data=data, **settings)
    stopped, _ = pruned()
    with pytest.raises(Killed):
        train(stopped, saver(tmp_path, **when), KeepPruned(masks), Kill(7), data=tiny_data(sep=True), **settings)
    resumed, _ = pruned()
    keep, last = KeepPruned(masks), tmp_path / "last.ckpt"
    train(resumed, saver(tmp_path, **when), keep, data=tiny_data(sep=True), resume=last, stream=99, **settings)
    assert equal(state(resumed), state(whole))

    found = state(resumed)
    assert len(masks) > 10
    assert {"model.queue_ptr", "model.image_queue"} <= found.keys()
    for name, mask in masks.items():
        tower, _, rest = name.partition(".")
        copies = [] if tower == "text_decoder" else [f"model.{tower}_m.{rest}"]  # the decoder has none
        for copy in (f"model.{name}", *copies):
            assert not found[copy][~mask].any(), copy
            assert torch.count_nonzero(found[copy]) > 0, copy
