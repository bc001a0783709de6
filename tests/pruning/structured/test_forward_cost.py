import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from vlp_bench.pruning.structured.forward_cost import forward_costs


class Attention(nn.Module):
    def __init__(self, heads):
        super().__init__()
        self.q = nn.Linear(8, 4 * heads, bias=False)

    def forward(self, x):
        q = self.q(x).unflatten(-1, (-1, 4)).transpose(1, 2)
        return scaled_dot_product_attention(q, q, q)


def test_operations_are_counted_by_hand_fused_attention_too():
    """5 tokens: 2·5·8·4 for each head's rows of the layer, 2·(2·5·5·4) for its attention."""
    x = torch.randn(1, 5, 8)
    two, one = forward_costs([Attention(2), Attention(1)], lambda model: model(x), rounds=1)
    assert (two.flops, one.flops) == (2 * (320 + 400), 320 + 400)
    assert (two.parameters, one.parameters) == (64, 32)
    assert min(two.milliseconds, one.milliseconds) > 0
