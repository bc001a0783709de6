"""What is to be said about a model is said once, by however many methods and sparsities it is pruned."""

import torch
from torch import nn

import vlp_bench


class Odd(nn.Module):
    """A position table, a stack, an attention with a probe, and too few batches."""

    def __init__(self):
        super().__init__()
        self.position, self.stack = nn.Parameter(torch.zeros(1, 5, 8)), nn.Bilinear(8, 8, 3)
        self.probe, self.attention = nn.Parameter(torch.randn(1, 1, 8)), nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = x + self.position
        return self.head(self.attention(self.probe.expand(len(x), 1, 8), x, x)[0][:, 0])


def test_each_once_for_many_methods_and_sparsities(caplog):
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(4, 5, 8, generator=generator), torch.tensor([0, 1, 2, 1])) for _ in range(2)]
    model = Odd()
    for name in ("wanda", "multiflow", "ria", "sparsegpt", "snip", "omp"):
        for sparsity in (0.5, [0.5, 0.6, 0.75]):
            options = {} if name == "omp" else {"num_batches": 9}
            vlp_bench.prune(model, name, sparsity, batches, options=options)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(set(said)) == 3, said
    for part in (
        "stay dense: position, stack.weight",
        "in_proj_weight can't be seen",
        "9 calibration batches were asked",
    ):
        assert sum(part in message for message in said) == 1


def test_another_model_is_told_too(caplog):
    for _ in range(2):
        vlp_bench.prune(Odd(), "omp", 0.5)
    assert len(caplog.records) == 2
