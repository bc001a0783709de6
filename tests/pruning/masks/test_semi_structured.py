import pytest
import torch
from torch import nn

import vlp_bench
from vlp_bench.pruning.layers import find_layers
from vlp_bench.pruning.masks.semi_structured import compress_layers, compressed, told, why_not, why_not_here

ON_CARD = torch.cuda.is_available() and why_not_here(torch.device("cuda")) is None
needs_card = pytest.mark.skipif(not ON_CARD, reason="needs a CUDA card of compute capability 8.0 or newer")


def two_of_four(rows=64, columns=128, dtype=torch.float16):
    model = nn.Sequential(nn.Linear(columns, rows, dtype=torch.float32))
    solution = vlp_bench.prune(model, "lmp", 0.5, options={"solve.within": "2:4"})
    solution.install(model)
    return model.to(dtype), solution.masks


def reason(rows=64, columns=128, dtype=torch.float16, change=None, kernels="CUTLASS"):
    model, masks = two_of_four(rows, columns, dtype)
    if change is not None:
        masks["0.weight"][change] = True
    return why_not(find_layers(model)["0.weight"], masks["0.weight"], kernels)


def test_every_reason_is_named():
    assert reason() is None
    assert reason(dtype=torch.bfloat16, kernels="cuSPARSELt") is None
    assert reason(dtype=torch.float32) == "weights are float32: float16 or bfloat16 are needed"
    assert reason(rows=48) == "48 x 128 are no multiples of 32 x 64 (CUTLASS)"
    assert reason(rows=48, kernels="cuSPARSELt") is None
    assert reason(columns=132, kernels="cuSPARSELt") == "64 x 132 are no multiples of 16 x 16 (cuSPARSELt)"
    assert reason(change=(0, slice(0, 4))) == "some groups of four keep more than two"


def test_stored_the_other_way_round():
    from transformers.pytorch_utils import Conv1D

    layer = find_layers(nn.Sequential(Conv1D(64, 128)))["0.weight"]
    assert why_not(layer, torch.ones(128, 64).bool()) == "it is stored as (d_in, d_out), so that groups lie across rows"


def test_a_processor_is_no_card():
    model, masks = two_of_four()
    before = model[0].weight.detach().clone()
    left = compress_layers(find_layers(model).values(), masks)
    assert left == {"0.weight": "torch's 2:4 kernels need a CUDA card, this is cpu"}
    assert model[0].weight.equal(before)
    assert told(left | {"1.weight": left["0.weight"], "2.weight": "x"}) == [
        "not in 2:4: 0.weight and 1 more: torch's 2:4 kernels need a CUDA card, this is cpu",
        "not in 2:4: 2.weight: x",
    ]


@needs_card
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_kernels_hold_the_weights_bit_for_bit(dtype):
    model, masks = two_of_four(dtype=dtype)
    model = model.cuda()
    weight, x = model[0].weight.detach().clone(), torch.randn(16, 128, dtype=dtype, device="cuda")
    wanted = model(x)
    assert compressed(weight).to_dense().equal(weight)
    assert compress_layers(find_layers(model).values(), masks) == {}
    torch.testing.assert_close(model(x), wanted, rtol=1e-2, atol=1e-2)


@needs_card
def test_what_is_not_two_of_four_is_refused_not_changed():
    with pytest.raises(ValueError, match="the weight isn't 2:4: compressed and taken apart again"):
        compressed(torch.ones(64, 128, dtype=torch.float16, device="cuda"))
