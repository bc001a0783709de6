"""Compiled, recomputed and bf16 steps give the losses of a plain one, within the bounds that are said."""

import copy
from importlib import import_module

import pytest
import torch
from transformers.cache_utils import DynamicCache

from vlp_bench.models.captioning import BLIPCaptioner, XVLMCaptioner
from vlp_bench.models.speed import blocks, compile_blocks, prepare, recompute_blocks
from vlp_bench.models.vqa import BLIPVQA, XVLMVQA, Answers
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


@pytest.fixture(params=["xvlm", "blip"])
def pretrained(request, model, blip):
    return model if request.param == "xvlm" else blip


@pytest.fixture(params=["retrieval", "captioning", "vqa"])
def fine_tuned(request, pretrained, general):
    """A model of a task in training, dropout and all, and its losses of a batch."""
    if request.param == "retrieval":
        return pretrained.train(), lambda model: model.retrieval_losses(general)
    xvlm = hasattr(pretrained, "bbox_head")
    if request.param == "captioning":
        captioner = (XVLMCaptioner if xvlm else BLIPCaptioner).of(pretrained)
        return captioner.train(), lambda model: model.captioning_losses(general)
    ids = torch.tensor([[2, 5, 3, 0], [2, 6, 7, 3], [2, 8, 3, 0], [2, 9, 4, 3]])
    answers = Answers(ids, (ids != 0).long(), torch.ones(4, dtype=torch.long), torch.tensor([0.4, 0.6, 1.0, 0.3]))
    asked = (general.images, general.text_ids, general.text_atts, answers)
    return (XVLMVQA if xvlm else BLIPVQA).of(pretrained).train(), lambda model: model.vqa_losses(*asked)


def total(model, losses, dtype=torch.float32):
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        return torch.stack(list(losses(model).values())).sum()


def test_recomputed_fine_tuning_is_the_same(fine_tuned):
    plain, losses = fine_tuned
    other = copy.deepcopy(plain)
    prepare(other, recomputed=True)
    loss, again = total(plain, losses), total(other, losses)
    assert again == loss
    loss.backward()
    again.backward()
    gradients = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    for name, parameter in other.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, gradients.pop(name), rtol=0, atol=1e-6)
    assert not gradients


def test_fine_tuning_in_bf16_is_near(fine_tuned):
    model, losses = fine_tuned
    plain, near = (
        total(copy.deepcopy(model), losses).detach(),
        total(model, losses, torch.bfloat16).detach(),
    )
    assert near.dtype == torch.float32
    assert float(near) == pytest.approx(float(plain), rel=BF16)


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


class Caching(torch.nn.Module):
    """A layer that keeps what it has seen, as transformers' layers do under one name or another."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)

    def forward(self, x, cache=None, past_key_values=None):
        filled = cache if past_key_values is None else past_key_values
        if filled is not None:
            filled.update(x[None, None], x[None, None], 0)
        return self.linear(x)


@pytest.mark.parametrize("way", ["by place", "cache", "past_key_values"])
def test_a_step_that_fills_a_cache_runs_once(way):
    layer, cache = Caching().train(), DynamicCache()
    recompute_blocks([layer])
    x = torch.ones(3, 2, requires_grad=True)
    found = layer(x, cache) if way == "by place" else layer(x, **{way: cache})
    found.sum().backward()
    assert cache.get_seq_length() == 3
    assert x.grad is not None


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
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch's compiler
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # warns of itself
def test_compiled_layers_give_the_same_losses(tiny):
    plain, other, batch = pair(tiny)
    compile_blocks(blocks(other))
    loss, gradients = loss_and_gradients(plain, batch)
    again, compiled = loss_and_gradients(other, batch)
    torch.testing.assert_close(again, loss, rtol=0, atol=COMPILED)
    for name, gradient in gradients.items():
        torch.testing.assert_close(compiled[name], gradient, rtol=1e-3, atol=COMPILED)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_every_call_of_a_layer_is_compiled(tiny):
    """In training and evaluation, of batches with and without regions: none falls back to what was not compiled."""
    plain, other, _ = pair(tiny)
    calls = {"plain": 0, "compiled": 0}

    def count(who, result=None):
        calls[who] += 1
        return result

    def backend(graph, _):
        return lambda *args: count("compiled", graph(*args))

    for block in blocks(plain):
        block.register_forward_hook(lambda *_: count("plain"))
    compile_blocks(blocks(other), backend=backend)
    for model in (plain, other, other):
        calls["compiled"] = 0  # of the second time alone: the first one compiles
        for batch in tiny.batches():
            adapter_for(model).loss(model.train(), batch).backward()
            adapter_for(model).encode(model.eval(), batch)
    assert calls["compiled"] == calls["plain"] > 0


def test_a_model_without_layers_is_refused():
    with pytest.raises(ValueError, match="Linear has no list of layers"):
        prepare(torch.nn.Linear(2, 2), compiled=True)
    prepare(torch.nn.Linear(2, 2))
