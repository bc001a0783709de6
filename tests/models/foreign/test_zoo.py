"""Every model of the zoo: what is read from its tree, what stays dense, exact sparsity, padding that never counts."""

import pytest
import torch
from transformers import Llama4ForCausalLM, Llama4TextConfig
from transformers.cache_utils import DynamicLayer

import vlp_bench
from tests.models.foreign.zoo import ZOO, batches, built
from vlp_bench.models.foreign.adapter import TransformersAdapter
from vlp_bench.pruning.adapter import Adapter, PlainAdapter
from vlp_bench.runs.own_model.reach import unreached

NAMES = list(ZOO)


@pytest.fixture(scope="module")
def models():
    return {name: built(name) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_modalities_blocks_and_what_stays_dense(models, name):
    kind, adapter = ZOO[name], TransformersAdapter(models[name])
    assert isinstance(adapter, Adapter)
    places = [adapter.place(weight) for weight in adapter.prunable(models[name])]
    found = {
        m: len({p.block for p in places if p.modality == m and p.block in adapter.tree.blocks}) for m in kind.blocks
    }
    assert found == kind.blocks
    stacks = [weight for weight in adapter.structure.weights if weight.stack]
    assert len(places) == kind.layers + len(stacks)
    assert not any(weight.reason for weight in stacks)
    assert (len(stacks) > 0) == (name == "mixtral")
    reasons = {weight.name: weight.reason for weight in adapter.structure.dense}
    assert all(reasons[weight] for weight in kind.stays)
    modules = dict(models[name].named_modules())
    assert all(f"{weight}.".startswith(f"{place.block}.") and place.block in modules
               for weight, place in zip(adapter.prunable(models[name]), places, strict=True))  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pruner", [pytest.param("omp", marks=pytest.mark.slow), "wanda", "snip"])
def test_exact_sparsity(models, name, pruner):
    kind, adapter, data = ZOO[name], TransformersAdapter(models[name]), batches(name)
    if pruner == "snip" and not kind.loss:
        with pytest.raises(ValueError, match=r"has no loss for a batch of .* \(omp, lamp, wanda"):
            vlp_bench.prune(models[name], pruner, 0.5, data, adapter)
        return
    adapter.leave(unreached(models[name], adapter, data, "gradients" if pruner == "snip" else "activations"))
    solution = vlp_bench.prune(models[name], pruner, 0.5, data, adapter)
    assert solution.kept == solution.total // 2
    assert {mask.partition("[")[0] for mask in solution.masks} == set(adapter.prunable(models[name]))


@pytest.mark.parametrize("name", NAMES)
def test_no_keys_and_values_are_kept(models, name, monkeypatch):
    """Of all layers they are gigabytes of a large model, and only generating reads them."""

    def kept(*_, **__):
        raise AssertionError("a cache was filled")

    monkeypatch.setattr(DynamicLayer, "update", kept)
    batch = batches(name)[0]
    seq2seq = getattr(models[name].config.get_text_config(), "is_encoder_decoder", False)  # no words for a plain one
    for adapter in [TransformersAdapter(models[name]), *([] if seq2seq else [PlainAdapter()])]:
        adapter.encode(models[name], batch)
    if ZOO[name].loss:
        assert TransformersAdapter(models[name]).loss(models[name], batch).isfinite()


WIDENED = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "cross_attention_mask",
           "qformer_input_ids", "qformer_attention_mask")  # fmt: skip


def padded(batch):
    """The same texts with five more columns of padding on the right."""
    wider = dict(batch)
    for key in WIDENED:
        if key in batch:
            old = batch[key]
            more = old.new_zeros(old.shape[0], 5, *old.shape[2:])
            wider[key] = torch.cat([old, more + (1 if key == "cross_attention_mask" else 0)], dim=1)
    return wider


@pytest.mark.parametrize("name", [name for name in NAMES if ZOO[name].pads and "input_ids" in ZOO[name].batch()])
def test_padding_never_counts(models, name):
    data, adapter = batches(name), TransformersAdapter(models[name])
    adapter.leave(unreached(models[name], adapter, data, "activations"))
    other = [padded(batch) for batch in data]
    for batch in other:  # other words under the padding
        for ids, mask in (("input_ids", "attention_mask"), ("qformer_input_ids", "qformer_attention_mask")):
            if ids in batch:
                batch[ids] = batch[ids] + (batch[mask] == 0) * 7
    first = vlp_bench.Calibration(models[name], data, adapter).norms()
    second = vlp_bench.Calibration(models[name], other, adapter).norms()
    for weight in first:  # OPT reads all tokens of a batch in one column: what is divided by changes, for a whole layer
        one, two = (found[weight] / found[weight].norm() for found in (first, second))
        assert torch.allclose(one, two, rtol=1e-4, atol=1e-6), weight
    masks = [vlp_bench.prune(models[name], "wanda", 0.5, own, adapter).masks for own in (data, other)]
    assert all(masks[0][weight].equal(masks[1][weight]) for weight in masks[0])


def test_patches_that_fill_up_an_image_do_not_count(models):
    for name in ("siglip2", "smolvlm"):
        adapter, [batch, _] = TransformersAdapter(models[name]), batches(name)
        weight = next(n for n in adapter.prunable(models[name]) if "vision_model.encoder.layers.0" in n)
        patches = adapter.token_mask(batch, weight, 16)
        assert patches.shape == (3, 16)
        assert patches.sum(1).tolist() == [16, 12 if name == "siglip2" else 8, 16]


def test_experts_that_do_not_say_how_they_are_stored():
    """Llama 4's bear no mark; they are known by their class."""
    sizes = {"hidden_size": 16, "intermediate_size": 8, "intermediate_size_mlp": 16, "head_dim": 8}
    counts = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 2}
    settings = Llama4TextConfig(vocab_size=16, interleave_moe_layer_step=1, pad_token_id=0, **sizes, **counts)
    model = Llama4ForCausalLM(settings).eval()
    adapter = TransformersAdapter(model)
    assert [weight.stack for weight in adapter.structure.weights if weight.stack] == [2, 2]
    assert "experts" not in " ".join(weight.name for weight in adapter.structure.dense)
    batches = [{"input_ids": torch.randint(1, 16, (4, 6), generator=torch.Generator().manual_seed(0))}]
    found = vlp_bench.prune(model, "wanda", 0.5, batches, adapter)
    assert sum("experts" in name for name in found.masks) == 4
    assert found.sparsity == 0.5
