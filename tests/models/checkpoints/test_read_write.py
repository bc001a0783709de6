"""Weight files: what is written comes back, and every broken file ends in one line that names it."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vlp_bench.models.checkpoints import read_write as checkpoints
from vlp_bench.models.checkpoints.locations import located
from vlp_bench.models.checkpoints.read_write import (
    build,
    load_model,
    load_weights,
    official_key_map,
    read_config,
    read_metadata,
    save_model,
    weights_hash,
)
from vlp_bench.models.xvlm.model import XVLM


@pytest.fixture
def saved(model, tmp_path):
    return save_model(tmp_path / "small.safetensors", model, {"seed": 3, "commit": "abc"})


def parameters(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def released(model):
    """The model's weights under the released names, as the released code would save them."""
    names = {"embeddings.class_": "class_", "embeddings.patch_embedding": "patch_embed"}
    names |= {"embeddings.position_embedding": "pos_embed"}
    state = {}
    for name, tensor in parameters(model).items():
        if name.startswith("vision_encoder."):
            for ours, theirs in names.items():
                name = name.replace(ours, theirs)
        state[name] = tensor
    bias = state.pop("text_encoder.cls.predictions.bias")
    state["text_encoder.cls.predictions.decoder.bias"] = bias
    words = state["text_encoder.bert.embeddings.word_embeddings.weight"]
    state["text_encoder.cls.predictions.decoder.weight"] = words
    state["text_encoder.bert.embeddings.position_ids"] = torch.arange(12)[None]
    state["vision_encoder.position_ids"] = torch.arange(10)[None]
    return state


@pytest.fixture
def patched(config):
    """A model with the papers' stem, which the released naming knows."""
    torch.manual_seed(5)
    return XVLM(replace(config, stem="patch")).eval()


def one_line(error, path):
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    assert ";" in message  # reason; cure
    return message


# --- our own files ---


def test_what_is_saved_comes_back(model, saved):
    loaded = load_model(saved)
    assert same(parameters(loaded), parameters(model))
    assert loaded.config == model.config == read_config(saved)
    assert not loaded.training
    assert read_metadata(saved) == {"seed": 3, "commit": "abc"}


def test_loaded_model_gives_the_same_losses(model, saved, region):
    ours = model.pretraining_losses(region, torch.Generator().manual_seed(1))
    theirs = load_model(saved).pretraining_losses(region, torch.Generator().manual_seed(1))
    assert same(ours, theirs)


def test_a_shared_weight_is_stored_once(model, saved):
    stored = load_file(saved)
    assert stored.keys() == parameters(model).keys()
    assert "text_encoder.cls.predictions.decoder.weight" not in stored


def test_half_precision_storage_is_read_as_float32(model, tmp_path):
    path = save_model(tmp_path / "half.safetensors", model, dtype=torch.float16)
    loaded = parameters(load_model(path))
    assert {t.dtype for t in load_file(path).values()} == {torch.float16}
    assert {t.dtype for t in loaded.values()} == {torch.float32}
    assert all(torch.equal(loaded[n], p.half().float()) for n, p in parameters(model).items())


def test_changes_replace_fields_of_the_configuration(saved):
    model = load_model(saved, attention="eager", itm_uniform=2.0, image_size=40)
    assert model.attention == "eager"
    assert model.config.itm_uniform == 2.0
    assert model.encode_image(torch.zeros(1, 3, 40, 40)).shape == (1, 26, 16)


def test_building_from_a_file_of_ours(model, saved):
    assert same(parameters(build(saved)), parameters(model))


def test_hash_follows_the_content(model, saved, tmp_path):
    again = save_model(tmp_path / "again.safetensors", model, {"seed": 3, "commit": "abc"})
    assert weights_hash(saved) == weights_hash(again)
    assert len(weights_hash(saved)) == 16
    with torch.no_grad():
        model.temp.add_(0.01)
    assert weights_hash(save_model(again, model, {"seed": 3, "commit": "abc"})) != weights_hash(saved)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(model, saved, monkeypatch):
    before = saved.read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_model(saved, model)
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_numbers_that_cannot_be_stored_are_refused(model, tmp_path, value):
    with torch.no_grad():
        model.temp.fill_(value)
    with pytest.raises(ValueError, match=r"not written: temp holds NaN or infinity as torch.float16"):
        save_model(tmp_path / "x.safetensors", model, dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []


# --- broken files ---


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError) as error:
        load_model(saved)
    assert "truncated" in one_line(error, saved)


def test_a_missing_file(tmp_path):
    path = tmp_path / "gone.safetensors"
    for read in (load_model, weights_hash, read_metadata, build):
        with pytest.raises(ValueError) as error:
            read(path)
        assert "no such file" in one_line(error, path)


def test_a_safetensors_file_of_somebody_else(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(ValueError) as error:
        load_model(path)
    assert "not a vlp_bench.xvlm.1 file" in one_line(error, path)


def test_weights_of_a_model_of_another_size(config, saved):
    for change in ({"vocab_size": 21}, {"text_layers": 4}, {"vision_layers": 2}):
        other = XVLM(replace(config, **change))
        before = parameters(other)
        with pytest.raises(ValueError) as error:
            load_weights(other, saved)
        assert "give the file of this model" in one_line(error, saved)
        assert same(parameters(other), before)


def test_missing_and_unexpected_names_are_listed(model, saved):
    tensors = load_file(saved)
    tensors["surplus"] = tensors.pop("temp")
    save_file(tensors, saved, metadata={checkpoints.FORMAT: "{}"})
    with pytest.raises(ValueError, match="missing temp; unexpected surplus"):
        load_weights(model, saved)


def test_long_lists_of_names_are_cut(config, saved):
    with pytest.raises(ValueError, match=r"unexpected (\S+, ){4}\S+ and 11 more"):
        load_weights(XVLM(replace(config, vision_layers=2)), saved)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_file_with_nan(model, saved, value):
    with torch.no_grad():
        model.temp.fill_(1.0)
    tensors = load_file(saved)
    tensors["vision_proj.bias"][2] = value
    save_file(tensors, saved, metadata={checkpoints.FORMAT: "{}"})
    before = parameters(model)
    with pytest.raises(ValueError) as error:
        load_weights(model, saved)
    assert "vision_proj.bias holds NaN" in one_line(error, saved)
    assert same(parameters(model), before)


@pytest.mark.parametrize("header, named", [({"config": {"width": 3}}, "width"), ({}, "config")])
def test_a_configuration_of_another_version(saved, header, named):
    save_file(load_file(saved), saved, metadata={checkpoints.FORMAT: json.dumps(header)})
    with pytest.raises(ValueError) as error:
        load_model(saved)
    assert "of another version" in one_line(error, saved)
    assert named in one_line(error, saved)


# --- released files ---


@pytest.mark.parametrize("root", ["model", "model_state", "student", None])
def test_a_released_file_is_read_strictly(patched, tmp_path, root):
    path, state = tmp_path / "released.pth", released(patched)
    torch.save({root: state, "epoch": 3} if root else state, path)
    loaded = build(path, patched.config)
    assert same(parameters(loaded), parameters(patched))


def test_released_positions_are_resized_as_the_model_s_own(patched, tmp_path):
    path = tmp_path / "released.pth"
    torch.save({"model": released(patched)}, path)
    loaded = build(path, replace(patched.config, image_size=40))
    patched.resize_images(40)
    assert same(parameters(loaded), parameters(patched))


def test_half_precision_released_weights_become_float32(patched, tmp_path):
    path = tmp_path / "released.pth"
    torch.save({"model": {n: t.half() if t.is_floating_point() else t for n, t in released(patched).items()}}, path)
    assert {p.dtype for p in build(path, patched.config).parameters()} == {torch.float32}


def test_key_map_by_hand():
    names = [
        "vision_encoder.patch_embed.weight",
        "vision_encoder.position_ids",
        "text_encoder.cls.predictions.decoder.bias",
        "text_encoder.cls.predictions.decoder.weight",
        "temp",
        "vision_encoder.pre_layrnorm.bias",
    ]
    assert sorted(official_key_map(dict.fromkeys(names, torch.zeros(1)))) == [
        "temp",
        "text_encoder.cls.predictions.bias",
        "vision_encoder.embeddings.patch_embedding.weight",
        "vision_encoder.pre_layrnorm.bias",
    ]


def test_a_word_decoder_of_its_own_is_refused(patched, tmp_path):
    path, state = tmp_path / "released.pth", released(patched)
    name = "text_encoder.cls.predictions.decoder.weight"
    torch.save({"model": state | {name: state[name] + 1}}, path)
    with pytest.raises(ValueError) as error:
        build(path, patched.config)
    assert "not the word embeddings" in one_line(error, path)


class Trap:
    """Unpickling this would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_a_released_file_is_not_run(patched, tmp_path):
    path, sprung = tmp_path / "released.pth", tmp_path / "sprung"
    torch.save({"model": released(patched), "args": Trap(sprung)}, path)
    with pytest.raises(ValueError) as error:
        build(path, patched.config)
    assert "plain tensors" in one_line(error, path)
    assert not sprung.exists()


@pytest.mark.parametrize(
    "content", [b"", b"not a checkpoint at all", pickle.dumps({"model": 3}, protocol=2), b"PK\x03\x04 cut off"]
)
def test_a_foreign_pth(patched, tmp_path, content):
    path = tmp_path / "foreign.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        build(path, patched.config)
    one_line(error, path)


def test_a_truncated_pth(patched, tmp_path):
    path = tmp_path / "cut.pth"
    torch.save({"model": released(patched)}, path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError) as error:
        build(path, patched.config)
    one_line(error, path)


@pytest.mark.parametrize("content", [{"optimizer": {"lr": 1}}, [1, 2], {"model": {"a": 1}}])
def test_a_pth_without_a_state_dict(patched, tmp_path, content):
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(ValueError) as error:
        build(path, patched.config)
    assert "no state dict" in one_line(error, path)


def test_missing_weights_are_told_before_the_model_is_built(tmp_path, config, monkeypatch):
    def build_nothing(*_, **__):
        raise AssertionError("the model was built first")

    monkeypatch.setattr(XVLM, "__init__", build_nothing)
    with pytest.raises(ValueError, match=r"no such file; .*paths\.weights"):
        build(tmp_path / "4m-xvlm-vit-bert.pth", config)


# --- where files lie ---


def test_a_packaged_file_is_found_wherever_the_package_is():
    assert (
        located("pkg://vlp_bench/assets/x.safetensors")
        == Path(checkpoints.__file__).parents[2] / "assets/x.safetensors"
    )
    assert located("a/b.pth") == Path("a/b.pth")
