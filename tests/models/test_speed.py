"""Compiled, recomputed and bf16 steps give the losses of a plain one, within the bounds that are said."""

import copy
from importlib import import_module

import pytest
import torch

from vlp_bench.models.speed import blocks, compile_blocks, prepare, recompute_blocks
from vlp_bench.pruning.adapter import adapter_for

FAMILIES = ("xvlm", "blip", "dino", "clip", "blip2")
BF16 = 0.03
"""Largest relative change of a loss under autocast to bfloat16, whose numbers have 8 bits."""
COMPILED = 1e-5


@pytest.fixture(params=FAMILIES)
def tiny(request):
    return import_module(f"tests.models.tiny.{request.param}")


def loss_and_gradients(model, batch, dtype=torch.float32):
    torch.manual_seed(1)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        loss = adapter_for(model).loss(model, batch)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def pair(tiny):
    torch.manual_seed(0)
    model = tiny.model().train()
    return model, copy.deepcopy(model), tiny.batches()[0]


def test_a_recomputed_step_is_the_same_step(tiny):
    plain, other, batch = pair(tiny)
    names = [name for name, _ in other.named_parameters()]
    prepare(other, recomputed=True)
    loss, gradients = loss_and_gradients(plain, batch)
    again, recomputed = loss_and_gradients(other, batch)
    assert again == loss
    assert names == [name for name, _ in other.named_parameters()]
    assert recomputed.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=0, atol=1e-6)


def test_recomputing_keeps_less(tiny):
    """Bytes that the graph of a training step holds."""

    def held(model, batch):
        sizes = {}

        def note(tensor):
            sizes[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            torch.manual_seed(1)
            loss = adapter_for(model).loss(model, batch)
        total = sum(sizes.values())
        loss.backward()
        return total

    plain, other, batch = pair(tiny)
    recompute_blocks(blocks(other))
    assert held(other, batch) < 0.8 * held(plain, batch)


def test_evaluation_is_not_recomputed(tiny, monkeypatch):
    def never(*_, **__):
        raise AssertionError("recomputed in evaluation")

    _, other, batch = pair(tiny)
    recompute_blocks(blocks(other))
    monkeypatch.setattr("vlp_bench.models.speed.checkpoint", never)
    adapter_for(other).loss(other.eval(), batch)
    with torch.no_grad():
        adapter_for(other).loss(other.train(), batch)
    with pytest.raises(AssertionError, match="recomputed"):
        adapter_for(other).loss(other.train(), batch)


def test_bf16_is_near(tiny):
    plain, other, batch = pair(tiny)
    loss, _ = loss_and_gradients(plain, batch)
    near, _ = loss_and_gradients(other, batch, torch.bfloat16)
    assert near.dtype == torch.float32
    assert float(near) == pytest.approx(float(loss), rel=BF16)


def test_compiling_is_asked_of_every_layer(tiny, monkeypatch):
    _, model, _ = pair(tiny)
    asked = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **settings: asked.append((self, settings)))
    prepare(model, compiled=True)
    assert [module for module, _ in asked] == blocks(model)
    assert len(asked) == len({id(module) for module, _ in asked}) >= 2


@pytest.mark.slow
def test_compiled_layers_give_the_same_losses(tiny):
    plain, other, batch = pair(tiny)
    compile_blocks(blocks(other))
    loss, gradients = loss_and_gradients(plain, batch)
    again, compiled = loss_and_gradients(other, batch)
    torch.testing.assert_close(again, loss, rtol=0, atol=COMPILED)
    for name, gradient in gradients.items():
        torch.testing.assert_close(compiled[name], gradient, rtol=1e-3, atol=COMPILED)


def test_a_model_without_layers_is_refused():
    with pytest.raises(ValueError, match="Linear has no list of layers"):
        prepare(torch.nn.Linear(2, 2), compiled=True)
    prepare(torch.nn.Linear(2, 2))
