"""A run that stores its scores, uses few batches, or prunes one modality."""

import pytest
import torch

from vlp_bench.pruning.another_sparsity import another_sparsity
from vlp_bench.runs.object_cache import ObjectCache
from vlp_bench.runs.prune_once import PruneOnce, scores_file

CPU = torch.device("cpu")
WORKSHOP = ObjectCache()


@pytest.fixture
def pruned(specified):
    """Words of a command line -> the mask, as PruneOnce has left it, and the dense weights."""

    def call(*words):
        specification = specified(*words)
        once = PruneOnce(specification, WORKSHOP.data(specification.config), CPU)
        model = WORKSHOP.model(specification.config)
        dense = {name: weight.clone() for name, weight in model.state_dict().items()}
        once(model)
        return once.pruned, dense

    return call


def test_scores_lie_beside_the_mask_and_give_another_sparsity(pruned, specified):
    once, dense = pruned("sparsity=0.75")
    assert not scores_file(once.file).exists()
    once, dense = pruned("sparsity=0.75", "scores=true")
    assert once.fresh  # the mask was there, the scores were not
    fresh, _ = pruned("sparsity=0.9")
    derived = another_sparsity(once.solution, 0.9, scores_file(once.file), dense)
    assert all(derived.masks[name].equal(mask) for name, mask in fresh.solution.masks.items())
    assert specified("scores=true").run == specified().run
    assert not pruned("sparsity=0.75", "scores=true")[0].fresh


def test_few_batches_and_one_modality(pruned):
    few, _ = pruned("pruner=multiflow_128", "pruner.num_batches=1")
    assert few.solution.report["settings"]["num_batches"] == 1
    assert few.solution.report["hashes"]["calibration"] != pruned()[0].solution.report["hashes"]["calibration"]
    vision, dense = pruned("pruner.modality=vision", "scores=true")
    assert {layer["modality"] for layer in vision.solution.report["layers"].values()} == {"vision"}
    derived = another_sparsity(vision.solution, 0.5, scores_file(vision.file), dense)
    assert derived.sparsity == pytest.approx(0.5, abs=1e-3)
