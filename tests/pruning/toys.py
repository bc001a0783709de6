"""Small models of every shape that pruning must know."""

import torch
from torch import nn

from vlp_bench.batch import Place

SHORT: dict[str, dict[str, object]] = {
    **{name: {"steps": 2} for name in ("itersnip", "chita_pp", "force", "obd")},
    "ecoflap": {"draws": 1},
    "neuroal": {"allocate.spreads": [0.05, 0.2]},
    "wanda_pp_ro": {"solve.rounds": 1},
    "upop": {"solve.epochs": 1},
    "multiflow_128": {"num_batches": None},
}
"""Options that shorten what takes many steps, by pruner."""


def sequential(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 7), nn.GELU(), nn.Linear(7, 3))


def labelled(batches=3, rows=5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: (torch.randn(rows, 6, generator=generator), torch.randint(3, (rows,), generator=generator))  # noqa: E731
    return [draw() for _ in range(batches)]


class Tied(nn.Module):
    """Encoder and decoder share one weight; the head has its own."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 6), nn.Linear(6, 6)
        self.decoder.weight = self.encoder.weight
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.decoder(self.encoder(x).tanh() * 2).tanh())


class TwoModalities:
    """An adapter that splits `sequential` in two."""

    def prunable(self, model):
        return [name for name, _ in model.named_parameters() if name.endswith("weight")]

    def place(self, name):
        return Place("vision" if name.startswith("0") else "text", name.split(".")[0])

    def encode(self, model, batch):
        model(batch[0])

    def loss(self, model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def token_mask(self, batch, name, tokens):
        return None

    def rows(self, batch):
        return len(batch[0])
