"""A model whose weights wait in files, against the same one in memory."""

import pytest
import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel, LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

import vlp_bench
from tests.pruning.toys import SHORT
from vlp_bench.models.foreign.loading import load, skeleton_with_buffers
from vlp_bench.models.offloading import Offloaded, StoredWeights, outermost_blocks

CPU = torch.device("cpu")


def llama():
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=40, num_key_value_heads=1, **sizes))


def t5():
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 3, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(vocab_size=40, decoder_start_token_id=0, pad_token_id=0, **sizes))


def clip():
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    vision = {"image_size": 16, "patch_size": 8, **sizes}
    text = {"vocab_size": 40, "max_position_embeddings": 12, "eos_token_id": 39, **sizes}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))


def batches(kind):
    g = torch.Generator().manual_seed(3)
    words = lambda *size: torch.randint(1, 39, size, generator=g)  # noqa: E731
    for _ in range(3):
        given = {"input_ids": words(3, 7)}
        if kind is not clip:
            given["labels"] = words(3, 5) if kind is t5 else given["input_ids"]
        else:
            given |= {"pixel_values": torch.randn(3, 3, 16, 16, generator=g), "return_loss": True}
        yield given


@pytest.fixture(params=[llama, t5, clip])
def stored(request, tmp_path):
    """The folder of a tiny model, in two files or more, and batches for it."""
    torch.manual_seed(0)
    request.param().save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    return tmp_path, list(batches(request.param))


def from_files(folder, device=CPU):
    model = skeleton_with_buffers(folder)
    return model, Offloaded(model, StoredWeights(folder), device)


@pytest.mark.parametrize("name", ["wanda", "sparsegpt", "ecoflap"])
def test_masks_are_those_of_the_model_in_memory(stored, name):
    folder, data = stored
    whole = load(folder)
    expected = vlp_bench.prune(whole, name, 0.5, data, vlp_bench.TransformersAdapter(whole), options=SHORT.get(name))
    model, own = from_files(folder)
    found = vlp_bench.prune(model, name, 0.5, data, vlp_bench.TransformersAdapter(model), options=SHORT.get(name))
    assert list(found.masks) == list(expected.masks)
    assert all(mask.equal(expected.masks[key]) for key, mask in found.masks.items())
    assert all(weight.equal(expected.weights[key]) for key, weight in found.weights.items())
    assert found.report["hashes"] == expected.report["hashes"]
    largest = max(sum(p.numel() * 4 for p in block.parameters()) for block in outermost_blocks(whole))
    assert 0 < own.most_bytes <= largest * (2 if name == "ecoflap" else 1)  # a changed block, and the one that is run
    assert own.bytes == 0


def test_a_forward_pass_is_the_same(stored):
    folder, data = stored
    model, own = from_files(folder)
    with torch.no_grad():
        assert torch.equal(model.eval()(**data[0])[0], load(folder)(**data[0])[0])
    assert all(p.isnan().all() for block in own.blocks for p in block.parameters())


def test_what_cannot_be_is_refused(tmp_path):
    torch.manual_seed(0)
    llama().save_pretrained(tmp_path)
    model, _ = from_files(tmp_path)
    with pytest.raises(ValueError, match=r"omp looks at all weights at once.*use wanda, sparsegpt or ecoflap"):
        vlp_bench.prune(model, "omp", 0.5)
    with pytest.raises(ValueError, match="has no blocks in a ModuleList"):
        Offloaded(nn.Linear(2, 2), {}, CPU)
    state = dict(StoredWeights(tmp_path))
    del state["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(ValueError, match=r"'model.layers.1.mlp.up_proj.weight' is not among the 38 stored weights"):
        Offloaded(llama(), state, CPU)
    broken = dict(StoredWeights(tmp_path))
    broken["model.layers.2.mlp.up_proj.weight"][0, 0] = torch.nan
    model = llama()
    Offloaded(model, broken, CPU)
    with pytest.raises(ValueError, match=r"'model.layers.2.mlp.up_proj.weight' hold NaN"):
        vlp_bench.prune(model, "wanda", 0.5, list(batches(llama)))
