"""What counts at the inputs of layers, beside what hooks of one's own add up: patches, sounds and words."""

import pytest
import torch
import transformers as t
from torch import nn

import vlp_bench
from tests.models.foreign.zoo import LAYERS, WORDS, built, words
from vlp_bench.models.foreign.token_masks import fitted
from vlp_bench.runs.own_model.reach import unreached

IGNORED = -100
READER = {"hidden_size": 32, "d_kv": 8, "d_ff": 64}


def pix2struct():
    """A model, and images of 16, 12 and 14 patches with what is said of them: 12, 8 and 12 words."""
    text = READER | {"vocab_size": 64, "num_layers": 1, "num_heads": 4, "decoder_start_token_id": 0}
    vision = READER | {"patch_embed_hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "seq_len": 32}
    model = t.Pix2StructForConditionalGeneration(t.Pix2StructConfig(text_config=text, vision_config=vision)).eval()
    patches = torch.arange(16) < torch.tensor([[16], [12], [14]])
    looks = torch.cat([torch.arange(1, 17).expand(3, 16)[..., None], torch.ones(3, 16, 1), torch.randn(3, 16, 48)], -1)
    labels = torch.randint(3, 58, (3, 12))
    labels[1, 8:] = IGNORED
    return model, {"flattened_patches": looks * patches[..., None], "attention_mask": patches.float(), "labels": labels}


def inputs(model, batch):
    """What reaches every linear layer, by the name of its weight."""
    seen: dict[str, torch.Tensor] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda _, args, own=path: seen.setdefault(f"{own}.weight", args[0]))
    with torch.no_grad():
        model(**batch)
    return seen


def test_patches_that_fill_up_a_row_do_not_count():
    torch.manual_seed(0)
    model, batch = pix2struct()
    adapter = vlp_bench.TransformersAdapter(model)
    norms = vlp_bench.Calibration(model, [batch], adapter).norms()
    seen = inputs(model, batch)
    masks = {16: batch["attention_mask"].bool(), 12: batch["labels"] != IGNORED}
    assert {seen[name].shape[1] for name in norms} == {12, 16}
    for name, found in norms.items():
        x = seen[name]
        assert torch.allclose(found, x[masks[x.shape[1]]].double().square().sum(0).div(3).sqrt(), rtol=1e-4), name
    cross = "decoder.layer.0.encoder_decoder_attention.attention.key.weight"
    assert adapter.place(cross).modality == "fusion"
    assert vlp_bench.prune(model, "wanda", 0.5, [batch], adapter).sparsity == 0.5


def clap():
    sounds = {"spec_size": 64, "num_mel_bins": 16, "window_size": 4, "patch_size": 4, "patch_stride": [4, 4],
              "hidden_size": 32, "depths": [1, 1], "num_attention_heads": [2, 2], "patch_embeds_hidden_size": 16,
              "num_hidden_layers": 2}  # fmt: skip
    config = t.ClapConfig(
        text_config=LAYERS | {"vocab_size": 64, "max_position_embeddings": 64}, audio_config=sounds, projection_dim=32
    )
    return t.ClapModel(config).eval()


def test_the_padding_of_words_is_none_of_sounds():
    torch.manual_seed(0)
    model = clap()
    heard = {"input_features": torch.randn(3, 1, 64, 16), "is_longer": torch.zeros(3, 1, dtype=torch.bool)}
    full = {"attention_mask": torch.ones(3, 24, dtype=torch.long)}
    found, unmasked = (
        vlp_bench.Calibration(model, [words() | heard | mask], vlp_bench.TransformersAdapter(model)).norms()
        for mask in ({}, full)
    )
    audio = [name for name in found if name.startswith("audio_")]
    assert len(audio) > 10
    assert all(torch.equal(found[name], unmasked[name]) for name in audio)


def test_frames_that_fill_up_a_sound_do_not_count():
    config = t.Qwen2AudioConfig(
        audio_config={"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 4, "encoder_ffn_dim": 64},
        text_config=WORDS | {"model_type": "qwen2", "num_key_value_heads": 2},
    )
    with torch.device("meta"):
        model = t.Qwen2AudioForConditionalGeneration._from_config(config)
    adapter = vlp_bench.TransformersAdapter(model)
    heard, said = torch.tensor([[1, 1, 1], [1, 0, 0]]), torch.tensor([[1, 1], [1, 0]])
    batch = {"input_ids": said, "attention_mask": said, "feature_attention_mask": heard}
    sounds, read = "audio_tower.layers.0.fc1.weight", "language_model.model.layers.0.mlp.up_proj.weight"
    names = adapter.prunable(model)
    sounds, read = (next(n for n in names if n.endswith(own.split(".", 1)[1])) for own in (sounds, read))
    found = [adapter.token_mask(batch, name, tokens) for name, tokens in ((sounds, 3), (read, 2))]
    assert all(own is not None and own.equal(mask.bool()) for own, mask in zip(found, (heard, said), strict=True))
    assert adapter.token_mask(batch | {"feature_attention_mask": None}, sounds, 3) is None
    with pytest.raises(ValueError, match="which are padding can't be known"):
        adapter.token_mask(batch, sounds, 2)  # frames that a convolution has made fewer


@pytest.mark.parametrize("name", ["xlnet", "fsmt", "longformer"])
def test_as_many_texts_as_tokens(name):
    """Of (tokens, rows, width) the shape alone doesn't say which is which; of half the texts it does."""
    torch.manual_seed(0)
    model, size = built(name), 20
    adapter = vlp_bench.TransformersAdapter(model)
    lengths = torch.arange(size)[:, None] % 9 + 12
    mask = (torch.arange(size) < lengths).long()
    ids = torch.randint(3, 58, (size, size)) * mask
    batch = {"input_ids": ids, "attention_mask": mask}
    if name == "fsmt":
        batch["labels"] = ids.masked_fill(mask == 0, IGNORED)
    halves = [{key: tensor[part] for key, tensor in batch.items()} for part in (slice(0, 10), slice(10, 20))]
    adapter.leave(unreached(model, adapter, [batch], "activations"))
    square, oblong = (vlp_bench.Calibration(model, own, adapter).norms() for own in ([batch], halves))
    for key, found in square.items():
        assert torch.allclose(found / found.norm(), oblong[key] / oblong[key].norm(), rtol=1e-4), key


def test_tokens_that_a_model_puts_behind_a_text_do_not_count():
    """Longformer's, up to a multiple of its window of 10; nothing in the batch is padded."""
    torch.manual_seed(0)
    model = built("longformer")
    batch = {"input_ids": torch.randint(3, 58, (3, 24)), "attention_mask": torch.ones(3, 24, dtype=torch.long)}
    adapter = vlp_bench.TransformersAdapter(model, leave=["*_global"])
    norms = vlp_bench.Calibration(model, [batch], adapter).norms()
    seen = inputs(model, batch)
    layer = "longformer.encoder.layer.0"
    read = {f"{layer}.output.dense.weight": 1, f"{layer}.attention.self.query.weight": 0}
    for name, axis in read.items():
        assert seen[name].shape[axis] == 30
        real = seen[name].narrow(axis, 0, 24).flatten(0, 1).double().norm(dim=0)
        assert torch.allclose(norms[name] / norms[name].norm(), real / real.norm(), rtol=1e-4)


def test_groups_of_one_token_share_its_mask():
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
    behind, before = (fitted(mask, 6, torch.Size(shape), "x") for shape in ((2, 3, 2, 8), (2, 2, 3, 8)))
    assert behind is not None
    assert before is not None
    assert behind[1].tolist() == [True, True, True, True, False, False]
    assert before[1].tolist() == [True, True, False, True, True, False]
    with pytest.raises(ValueError, match="which are padding can't be known"):
        fitted(mask, 9, torch.Size((2, 3, 3, 8)), "x")
