"""What every model must hold to, so that it can be pruned: one test for all that lie in `tests/models/tiny`.

A model of your own is taken up by a file there (see docs/add-a-model.md).
"""

import copy
from collections import defaultdict
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn

import vlp_bench
from vlp_bench.batch import Place
from vlp_bench.pruning.adapter import Adapter, adapter_for

FILES = sorted(p.stem for p in (Path(__file__).parent / "tiny").glob("*.py") if p.stem != "__init__")


@pytest.fixture(scope="module", params=FILES)
def tiny(request):
    return import_module(f"tests.models.tiny.{request.param}")


def built(tiny, attention="sdpa"):
    """With weights several times as large as at the start of training, so that every path makes a difference."""
    torch.manual_seed(0)
    model = tiny.model(attention).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim == 2 else 1)
    return model


@pytest.fixture
def model(tiny):
    return built(tiny)


def loss_of(model, batch):
    torch.manual_seed(1)  # negatives are drawn
    return adapter_for(model).loss(model, batch)


def inputs_seen(model, batch):
    """Shapes of the inputs of every prunable weight in `encode`, over all modules that read it."""
    adapter, seen, handles = adapter_for(model), defaultdict(list), []
    names = {id(model.get_parameter(name)): name for name in adapter.prunable(model)}
    for module in model.modules():
        if isinstance(module, nn.Linear) and id(module.weight) in names:
            name = names[id(module.weight)]
            handles.append(module.register_forward_pre_hook(lambda _, args, n=name: seen[n].append(args[0].shape)))
    adapter.encode(model, batch)
    for handle in handles:
        handle.remove()
    return seen


def test_it_answers_for_itself(model):
    assert isinstance(model.adapter, Adapter)


def test_what_is_prunable_are_matrices_each_named_once(model):
    names = model.adapter.prunable(model)
    assert names
    assert len({id(model.get_parameter(name)) for name in names}) == len(names)
    assert set(names) <= {name for name, _ in model.named_parameters()}
    assert all(model.get_parameter(name).ndim == 2 for name in names)


def test_every_weight_has_its_place_in_a_block_of_the_model(model):
    for name in model.adapter.prunable(model):
        place = model.adapter.place(name)
        assert isinstance(place, Place)
        assert name.startswith(f"{place.block}.")
        assert isinstance(model.get_submodule(place.block), nn.Module)


def test_encode_reaches_every_prunable_weight_and_changes_nothing(model, tiny):
    before = copy.deepcopy(model.state_dict())
    assert set(model.adapter.prunable(model)) == inputs_seen(model, tiny.batches()[0]).keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_token_masks_fit_what_a_layer_reads(model, tiny):
    for batch in tiny.batches():
        for name, shapes in inputs_seen(model, batch).items():
            for rows, *tokens, _ in shapes:
                mask = model.adapter.token_mask(batch, name, *(tokens or [1]))
                if mask is not None:
                    assert mask.dtype == torch.bool
                    assert mask.shape == (rows, *(tokens or [1]))
                    assert bool(mask.any())


def test_the_loss_is_a_number_that_every_prunable_weight_has_a_say_in(model, tiny):
    loss_of(model, tiny.batches()[0]).backward()
    for name in model.adapter.prunable(model):
        gradient = model.get_parameter(name).grad
        assert gradient is not None, name
        assert bool(gradient.isfinite().all()), name
        assert bool(gradient.any()), name


def test_rows_are_examples(model, tiny):
    for batch in tiny.batches():
        assert model.adapter.rows(batch) == batch.examples


def test_both_attentions_give_the_same_loss(tiny):
    for batch in tiny.batches():
        fast, plain = (loss_of(built(tiny, attention), batch) for attention in ("sdpa", "eager"))
        torch.testing.assert_close(fast, plain, rtol=0, atol=max(2e-5, 2e-6 * float(plain.detach())))  # float32


def test_an_unknown_attention_is_refused(tiny):
    with pytest.raises((ValueError, ImportError), match=r"attention|attn"):
        tiny.model("quick")


@pytest.mark.parametrize("pruner", ["omp", "multiflow", "snip", "wanda"])
def test_pruners_keep_exactly_what_they_are_asked_to(model, tiny, pruner):
    solution = vlp_bench.prune(model, pruner, 0.5, tiny.batches())
    solution.install(model)
    total = sum(model.get_parameter(name).numel() for name in model.adapter.prunable(model))
    alive = sum(int(model.get_parameter(name).count_nonzero()) for name in model.adapter.prunable(model))
    assert solution.total == total
    assert alive == solution.kept == pytest.approx(total / 2, abs=len(solution.masks))
    assert bool(loss_of(model, tiny.batches()[0]).isfinite())
