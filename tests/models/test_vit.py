"""Which kernel the vision transformer of BLIP and DINO attends with."""

import pytest
import torch
import torch.nn.functional as F

from vlp_bench.models.vit import FusedAttention, SplitAttention


@pytest.fixture(params=[FusedAttention, SplitAttention])
def attention(request):
    torch.manual_seed(0)
    return request.param(16, 2, "sdpa")


@pytest.mark.parametrize(
    "dtype, training, fused",
    [
        (torch.float32, True, True),
        (torch.float32, False, True),
        (torch.bfloat16, False, True),
        (torch.bfloat16, True, False),  # on a CPU the fused kernel's backward pass is the slower one
    ],
)
def test_attention_is_fused_where_that_is_the_faster(attention, monkeypatch, dtype, training, fused):
    kernel, asked = F.scaled_dot_product_attention, []
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *parts: asked.append(parts) or kernel(*parts))
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    with torch.set_grad_enabled(training), torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        said = attention(x)
    assert len(asked) == fused
    attention.attention = "eager"
    bound = 1e-2 if dtype is torch.bfloat16 else 1e-6
    torch.testing.assert_close(said.float(), attention(x), rtol=0, atol=bound)
