"""Weight files as training programs leave them: the same tensors, or a line that says what stands in the way."""

import pytest
import torch

from vlp_bench.models.checkpoints.read_write import CheckpointError, build, load_model, read_config
from vlp_bench.models.checkpoints.tensors import tensors_of
from vlp_bench.models.checkpoints.wrapped import state_of

STATE = {"0.weight": torch.eye(3), "0.bias": torch.arange(3.0)}
ROOTS = ("model", "model_state", "student")


def under(prefix, state=STATE):
    return {prefix + name: tensor for name, tensor in state.items()}


WRAPPED = {
    "as it is": STATE,
    "numbers beside": STATE | {"epoch": 3, "lr": 0.1, "name": "x", "best": None},
    "DDP": under("module."),
    "compiled": under("_orig_mod."),
    "DDP of compiled": under("module._orig_mod."),
    "compiled DDP": under("_orig_mod.module."),
    "DDP twice": under("module.module."),
    "model": {"model": STATE, "epoch": 3, "optimizer": {"state": {}, "param_groups": []}},
    "model of DDP": {"model": under("module.")},
    "state_dict": {"state_dict": STATE, "epoch": 3},
    "Lightning": {"state_dict": under("model."), "pytorch-lightning_version": "2"},
    "Lightning, compiled": {"state_dict": under("model._orig_mod.")},
    "model_state_dict": {"model_state_dict": STATE},
    "state_dict of model": {"state_dict": {"model": STATE}},
    "student before others": {"student": STATE, "teacher": under("x.")},
}


@pytest.mark.parametrize("content", WRAPPED.values(), ids=WRAPPED.keys())
def test_the_tensors_come_out_under_their_names(content, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    found = tensors_of(tmp_path / "w.pth", STATE)
    assert found.keys() == STATE.keys()
    assert all(found[name].equal(tensor) for name, tensor in STATE.items())


def test_a_compiled_part_anywhere():
    state = {"encoder._orig_mod.0.weight": torch.eye(3), "head.weight": torch.eye(3)}
    assert list(state_of(state, ROOTS)) == ["encoder.0.weight", "head.weight"]


def test_a_name_that_begins_so_by_right_is_kept():
    assert list(state_of({"model.a": torch.ones(1), "model.b": torch.ones(1)}, ROOTS)) == ["model.a", "model.b"]
    assert list(state_of({"module.a": torch.ones(1), "b": torch.ones(1)}, ROOTS)) == ["module.a", "b"]


REFUSED = {
    "a list": ([STATE], "no state dict at its top or under model"),
    "a text": ("abc", "no state dict"),
    "nothing": ({}, "no state dict"),
    "numbers alone": ({"epoch": 3}, "no state dict"),
    "a list among them": (STATE | {"history": [1]}, "'history' is no tensor"),
    "two": ({"model": STATE, "state_dict": under("x.")}, r"several state dicts \(model, state_dict\)"),
    "two others": ({"module": STATE, "model_state_dict": STATE}, "several state dicts"),
    "no values": ({name: tensor.to("meta") for name, tensor in STATE.items()}, "meta device: it has no values"),
    "one name twice": ({"a": torch.ones(1), "_orig_mod.a": torch.ones(1)}, "two of its names are one"),
    "a number for a name": ({5: torch.ones(1)}, "5 is no tensor"),
}


@pytest.mark.parametrize(("content", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_none_is_told_in_a_line(content, reason, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=reason) as raised:
        tensors_of(tmp_path / "w.pth", STATE)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_a_model_of_ours_saved_from_a_wrapper_is_loaded(prefix, tiny_weights, tmp_path):
    model = load_model(tiny_weights)
    torch.save(under(prefix, model.state_dict()), tmp_path / "w.pth")
    again = build(tmp_path / "w.pth", read_config(tiny_weights))
    assert all(tensor.equal(again.state_dict()[name]) for name, tensor in model.state_dict().items())
