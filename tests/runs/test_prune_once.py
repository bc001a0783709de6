"""A run that stores its scores, uses few batches, or prunes one modality."""

import pytest
import torch

from vlp_bench.pruning.another_sparsity import another_sparsity
from vlp_bench.runs.object_cache import ObjectCache
from vlp_bench.runs.prune_once import PruneOnce, mask_file, prune_once, scores_file, statistics_folder

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


def test_a_report_says_whether_its_seconds_are_its_own(pruned, specified):
    first, _ = pruned("pruner=multiflow", "sparsity=0.5")
    second, _ = pruned("pruner=multiflow", "sparsity=0.75")  # from the first's statistics, which lie on disk
    assert (first.solution.report["alone"], second.solution.report["alone"]) == (True, False)
    several = [specified("pruner=multiflow", f"sparsity={level}", "force=true") for level in (0.5, 0.75)]
    config = several[0].config
    made = prune_once(several, WORKSHOP.model(config), WORKSHOP.data(config), CPU, again=True, fresh_statistics=True)
    assert [mask.solution.report["alone"] for mask in made] == [False, False]  # one pass for both


def test_few_batches_and_one_modality(pruned):
    few, _ = pruned("pruner=multiflow_128", "pruner.num_batches=1")
    assert few.solution.report["settings"]["num_batches"] == 1
    assert few.solution.report["hashes"]["calibration"] != pruned()[0].solution.report["hashes"]["calibration"]
    vision, dense = pruned("pruner.modality=vision", "scores=true")
    assert {layer["modality"] for layer in vision.solution.report["layers"].values()} == {"vision"}
    derived = another_sparsity(vision.solution, 0.5, scores_file(vision.file), dense)
    assert derived.sparsity == pytest.approx(0.5, abs=1e-3)


def test_a_masks_identity_is_all_that_decides_it(specified):
    """Each word that changes what is pruned, how, or on which data changes the file; the others do not."""

    def file(*words):
        specification = specified(*words)
        return mask_file(specification, WORKSHOP.data(specification.config))

    own = file()
    for word in ("pruner=omp", "sparsity=0.8", "model.attention=eager", "pruning_seed=1", "data.calibration.mask=0.5"):
        assert file(word).stem.rpartition("-")[2] != own.stem.rpartition("-")[2], word
    for word in ("seed=3", "task.lr=1e-5", "recipe.epochs=0", "data.source.train=32", "scores=true"):
        assert file(word) == own, word


def test_a_masks_identity_holds_the_fingerprint_of_the_calibration(specified):
    """Nothing else differs between the two: only the data know that their batches are others."""

    class Data:
        def __init__(self, fingerprint):
            self.fingerprint = fingerprint

        def calibration_fingerprint(self):
            return self.fingerprint

    first, same, other = (mask_file(specified(), Data(print_)) for print_ in ("one", "one", "another"))
    assert first == same
    assert first != other
    one, another = (statistics_folder(specified(), Data(print_)).folder for print_ in ("one", "another"))
    assert one != another


def test_peak_memory_is_not_told_where_statistics_are_shared(pruned):
    words = ("pruner=snip", "data.calibration.seed=7", "sparsity=0.5")
    assert pruned(*words)[0].solution.report["alone"]  # the first to ask
    again, _ = pruned(*words[:2], "sparsity=0.6")
    assert again.fresh
    assert not again.solution.report["alone"]
    assert again.solution.report["peak_gb"] is None
    assert pruned(*words[:2], "sparsity=0.7", "force=true")[0].solution.report["alone"]
