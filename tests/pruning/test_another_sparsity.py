from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

import vlp_bench
from tests.pruning.toys import TwoModalities, labelled, sequential
from vlp_bench.pruning import another_sparsity as stored_scores
from vlp_bench.pruning import catalogue
from vlp_bench.pruning.another_sparsity import another_sparsity, rebuilt
from vlp_bench.pruning.pruner import describe
from vlp_bench.pruning.solution import Solution
from vlp_bench.pruning.statistics.calibration import Calibration

ONE_SHOT = ("omp", "lmp", "l2", "lamp", "random", "snip", "multiflow", "multiflow_edges", "multiflow_nodes")


def pruned(tmp_path, name, model, sparsity=0.5, batches=None, adapter=None, options=None):
    """The mask file of a run, and its file of scores."""
    shared = Calibration(model, batches or labelled(), adapter)
    solution = vlp_bench.prune(model, name, sparsity, shared, options=options)
    scores = stored_scores.write(tmp_path / "scores", shared)
    return Solution.load(solution.save(tmp_path / "mask")), scores, shared


@pytest.mark.parametrize("name", ONE_SHOT)
@pytest.mark.parametrize("compat", ["corrected", "official"])
def test_the_same_masks_as_from_a_fresh_calibration(name, compat, tmp_path):
    model = sequential()
    options = {"compat": compat}
    solution, scores, shared = pruned(tmp_path, name, model, adapter=TwoModalities(), options=options)
    derived = another_sparsity(solution, 0.8, scores, model.state_dict())
    fresh = vlp_bench.prune(model, name, 0.8, shared, options=options)
    assert all(derived.masks[layer].equal(mask) for layer, mask in fresh.masks.items())
    assert derived.report | {"seconds": 0} == fresh.report | {"seconds": 0}


def test_transposed_weights(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(Conv1D(10, 6), nn.Tanh(), Conv1D(3, 10))
    for name in ("multiflow", "snip"):
        solution, scores, shared = pruned(tmp_path, name, model)
        derived = another_sparsity(solution, 0.8, scores, model.state_dict())
        fresh = vlp_bench.prune(model, name, 0.8, shared)
        assert all(derived.masks[layer].equal(mask) for layer, mask in fresh.masks.items())


def test_only_small_statistics_are_stored_for_activations(tmp_path):
    model = nn.Sequential(nn.Linear(6, 1000), nn.Linear(1000, 3))
    _, scores, _ = pruned(tmp_path, "multiflow", model)
    assert scores.stat().st_size < 8 * (6 + 1000) + 1000
    _, scores, _ = pruned(tmp_path, "omp", model)
    assert scores.stat().st_size < 1000


def test_weights_stored_in_half_precision(tmp_path):
    model = sequential().half().float()
    solution, scores, shared = pruned(tmp_path, "multiflow", model)
    derived = another_sparsity(solution, 0.8, scores, {n: w.half() for n, w in model.state_dict().items()})
    fresh = vlp_bench.prune(model, "multiflow", 0.8, shared)
    assert all(derived.masks[layer].equal(mask) for layer, mask in fresh.masks.items())


@pytest.mark.parametrize(
    "name, message",
    [
        ("itersnip", "looks at the data again"),
        ("wanda", "looks at the data again"),
        ("chita", "doesn't keep the largest scores"),
        ("sparsegpt", "doesn't keep the largest scores"),
    ],
)
def test_methods_without_scores_of_their_own_are_refused_by_name(name, message, tmp_path):
    model = sequential()
    options = {"steps": 3} if name == "itersnip" else None
    solution, scores, _ = pruned(tmp_path, name, model, options=options)
    with pytest.raises(ValueError, match=f"{name} {message}"):
        another_sparsity(solution, 0.8, scores, model.state_dict())


def test_masks_with_values_that_data_gave_are_refused(tmp_path):
    """Never without a word, as the mask alone of the other sparsity."""
    model = sequential()
    for name in ("omp", "multiflow"):
        solution, scores, _ = pruned(tmp_path, name, model, options={"values": "least_squares"})
        with pytest.raises(ValueError, match=f"{name} looks at the data again for the values of what it keeps: prune"):
            another_sparsity(solution, 0.8, scores, model.state_dict())


def test_masks_of_chosen_tokens_are_refused_by_what_they_look_at(tmp_path):
    model, options = sequential(), {"sweep": "at_once", "tokens": "atv"}
    solution, scores, _ = pruned(tmp_path, "wanda", model, options=options)
    with pytest.raises(
        ValueError, match="wanda looks at the data again to choose its tokens: prune again at the other"
    ):
        another_sparsity(solution, 0.8, scores, model.state_dict())


def test_a_mask_of_one_modality_has_others(tmp_path):
    """The scores are those of what the pruner focused on, as a run stores them."""
    model, pruner = sequential(), replace(catalogue.load("multiflow"), modality="text")
    asked = pruner.focus(Calibration(model, labelled(), TwoModalities()))
    solution, scores = pruner.prune(model, 0.5, asked), stored_scores.write(tmp_path / "scores", asked)
    fresh = pruner.prune(model, 0.8, asked)
    derived = another_sparsity(solution, 0.8, scores, model.state_dict())
    assert len(fresh.masks) < 3
    assert all(derived.masks[layer].equal(mask) for layer, mask in fresh.masks.items())


def test_scores_of_something_else_are_refused(tmp_path):
    model, other = sequential(), sequential(seed=1)
    _, others, _ = pruned(tmp_path / "other", "multiflow", other)
    solution, scores, _ = pruned(tmp_path, "multiflow", model)
    with pytest.raises(ValueError, match="of another model, or of other layers, than the mask"):
        another_sparsity(solution, 0.8, others, model.state_dict())
    with pytest.raises(ValueError, match="not the weights that were pruned"):
        another_sparsity(solution, 0.8, scores, other.state_dict())
    with pytest.raises(ValueError, match=r"hold no '0.weight'"):
        another_sparsity(solution, 0.8, scores, {})
    with pytest.raises(FileNotFoundError, match="no file of scores"):
        another_sparsity(solution, 0.8, tmp_path / "missing", model.state_dict())
    with pytest.raises(ValueError, match="doesn't say how it was made"):
        another_sparsity(Solution(solution.masks), 0.8, scores, model.state_dict())
    _, nothing, _ = pruned(tmp_path, "omp", model)
    with pytest.raises(ValueError, match="lacks what multiflow asks of the data: prune again with scores=true"):
        another_sparsity(solution, 0.8, nothing, model.state_dict())


@pytest.mark.parametrize("name", catalogue.names())
def test_a_description_gives_the_pruner_back(name):
    pruner = catalogue.load(name)
    assert describe(rebuilt(describe(pruner))) == describe(pruner)


@pytest.mark.parametrize("path", ["os.system", "vlp_bench.pruning.pruner.hashlib", "vlp_bench.pruning.scores.nothing"])
def test_a_file_can_name_nothing_but_parts_of_pruners(path):
    with pytest.raises(ValueError, match=f"{path}: only what conf/ names may be constructed"):
        rebuilt({"_target_": path})


class WithoutHead(TwoModalities):
    def prunable(self, model):
        return [name for name in super().prunable(model) if name != "4.weight"]


def test_what_stayed_dense_is_still_known(tmp_path):
    model = sequential()
    solution, scores, _ = pruned(tmp_path, "multiflow", model, adapter=WithoutHead())
    derived = another_sparsity(solution, 0.8, scores, model.state_dict())
    assert derived.report["dense"] == solution.report["dense"] == ["4.weight"]
    derived.install(sequential())
