"""Folders in the hub's layout that somebody else wrote: nothing elsewhere is read, run or constructed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from vlp_bench import from_pretrained
from vlp_bench.models.foreign.inputs import Inputs
from vlp_bench.models.foreign.loading import found_folder, load, skeleton, skeleton_with_buffers
from vlp_bench.models.offloading import Offloaded, StoredWeights

SIZES: dict[str, Any] = {
    "vocab_size": 32, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model = LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, **SIZES))
    model.save_pretrained(folder, max_shard_size="2KB")
    return model, folder


@pytest.fixture
def folder(made, tmp_path):
    return Path(shutil.copytree(made[1], tmp_path / "model"))


def change(file: Path, **values):
    content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    file.write_text(json.dumps(content | values), encoding="utf-8")


def every_reader_refuses(folder: Path, line: str, *others):
    for read in (load, from_pretrained, *others):
        with pytest.raises(ValueError, match=line) as raised:
            read(folder)
        assert "\n" not in str(raised.value)


def test_the_same_by_hand_is_read(folder):
    assert type(load(folder)) is type(from_pretrained(folder)) is LlamaForCausalLM


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "/elsewhere.safetensors", "..", "a\\b", ""])
def test_no_shard_lies_elsewhere(folder, name):
    index = folder / "model.safetensors.index.json"
    shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    change(index, weight_map={**shards, "lm_head.weight": name})
    every_reader_refuses(folder, r"model\.safetensors\.index\.json: .* is no file beside it$")


@pytest.mark.parametrize("shards", [{"lm_head.weight": 5}, ["x"], None])
def test_an_index_that_names_no_files_is_told(folder, shards):
    change(folder / "model.safetensors.index.json", weight_map=shards)
    every_reader_refuses(folder, "expected a weight_map of names of files")


def test_an_adapter_is_not_taken_for_the_model_under_it(folder):
    change(folder / "adapter_config.json", base_model_name_or_path="/elsewhere", peft_type="LORA")
    every_reader_refuses(folder, r"adapter_config\.json belongs to an adapter.*merge it")


@pytest.mark.parametrize(
    "values",
    [{"attn_implementation": "owner/kernel"}, {"_attn_implementation": {"": "owner/kernel@v1"}},
     {"text_config": {"experts_implementation": "owner/kernel"}}],
)  # fmt: skip
def test_code_of_the_hub_is_not_fetched(folder, values, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a configuration made a connection"))
    change(folder / "config.json", **values)
    every_reader_refuses(folder, r"config\.json: \w*_implementation=.*owner/kernel.* is code of another repository")
    with pytest.raises(ValueError, match="is code of another repository"):
        skeleton(folder)


def test_a_base_class_is_no_model(folder):
    change(folder / "config.json", architectures=["PreTrainedModel"])
    every_reader_refuses(folder, "has no model PreTrainedModel")


@pytest.mark.parametrize("name", ["pipeline", "LlamaForCausalLM", "RagRetriever", "models", 5, ["x"], {"a": 1}])
@pytest.mark.parametrize("key", ["processor_class", "tokenizer_class", "image_processor_type"])
def test_files_beside_a_model_construct_nothing_else(made, folder, key, name):
    change(folder / "processor_config.json", **{key: name})
    inputs = Inputs(made[0], folder)
    for part in ("tokenizer", "image_processor", "processor"):
        with pytest.raises(ValueError, match=rf"processor_config\.json: {key}=.* is no \w+ of transformers$"):
            getattr(inputs, part)


@pytest.mark.parametrize("content", ["[]", "5", '"llama"', "null"])
def test_a_configuration_that_is_no_object_is_told(folder, content):
    (folder / "config.json").write_text(content, encoding="utf-8")
    every_reader_refuses(folder, r"config\.json.* (expected an object|is no object)")


def test_weights_that_are_missing_are_told(folder):
    index = folder / "model.safetensors.index.json"
    shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    change(index, weight_map={name: file for name, file in shards.items() if name != "lm_head.weight"})
    with pytest.raises(ValueError, match=r"its weights are not those of a LlamaForCausalLM \(lm_head\.weight\)"):
        from_pretrained(folder)


def test_memory_that_runs_out_is_no_fault_of_a_folder(folder, monkeypatch):
    def scarce(*_, **__):
        raise MemoryError

    monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", scarce)
    for read in (load, from_pretrained):
        with pytest.raises(MemoryError):
            read(folder)


def cut(file: Path):
    file.write_bytes(file.read_bytes()[:-7])


@pytest.mark.parametrize("damage, line", [
    (Path.unlink, "no such file, and the index beside it names it"),
    (cut, r"truncated or no \.safetensors file \(.*incomplete metadata"),
    (lambda file: file.write_bytes(b"version https://git-lfs.github.com/spec/v1"), "truncated or no .*too large"),
])  # fmt: skip
def test_a_shard_that_is_not_whole_is_named(folder, damage, line):
    damage(shard := sorted(folder.glob("*.safetensors"))[1])
    every_reader_refuses(
        folder, rf"{shard.name}: {line}.*; is the download complete\?$", lambda f: found_folder(str(f))
    )


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("gone")])
def test_weights_that_are_no_file_are_named(tmp_path, folder, make):
    for shard in (*folder.glob("*.safetensors"), folder / "model.safetensors.index.json"):
        shard.unlink()
    make(folder / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"model\.safetensors: a link to nothing, or no file; is the download complete"
    ):
        found_folder(str(folder))


def test_weights_of_other_sizes_are_told_with_both(folder):
    change(folder / "config.json", vocab_size=48)
    with pytest.raises(
        ValueError, match=r"mismatched lm_head\.weight \(\(32, 8\) in the file, \(48, 8\) by config\.json\)"
    ):
        load(folder)
    with pytest.raises(ValueError, match=r"lm_head\.weight \(\(32, 8\) in the file, \(48, 8\) by config\.json\)"):
        from_pretrained(folder)
    with pytest.raises(
        ValueError, match=r"another model's: model\.embed_tokens\.weight \(\(32, 8\) in the file, \(48, 8\)"
    ):
        Offloaded(skeleton_with_buffers(folder), StoredWeights(folder), torch.device("cpu"))


def test_another_s_configuration_is_told_without_weights(folder):
    change(folder / "config.json", architectures=["BertModel"])
    for built in (skeleton, skeleton_with_buffers):
        with pytest.raises(
            ValueError, match=r"its config\.json is not that of a BertModel \('LlamaConfig' object has no"
        ):
            built(folder)


def test_weights_beside_those_that_are_read_are_not_offloaded(made, folder):
    """The hub has models with `model.fp16.safetensors`, or `consolidated.safetensors`, beside the weights."""
    state = {name: tensor.detach() + 1 for name, tensor in made[0].state_dict().items()}
    save_file(state, folder / "variant.safetensors", {"format": "pt"})
    found = StoredWeights(folder)
    assert all(found[name].equal(tensor) for name, tensor in made[0].state_dict().items())
    assert "variant.safetensors" not in {path.name for path in found.files.values()}
