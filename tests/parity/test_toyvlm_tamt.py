"""TAMT as released with MULTIFLOW: the masks it ends with, and the losses and sparsities of its six steps."""

import numpy as np
import pytest

import vlp_bench
from tests.parity import toyvlm

SPARSITIES = {"s63": 0.63, "s75": 0.75, "s90": 0.9}


class Watches(toyvlm.ToyAdapter):
    """Writes down every loss and the share of weights that were zero."""

    def __init__(self):
        self.losses, self.zeros = [], []

    def loss(self, model, batch):
        loss = super().loss(model, batch)
        weights = [model.get_parameter(name) for name in self.prunable(model)]
        self.losses.append(float(loss.detach()) / 2)
        self.zeros.append(sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights))
        return loss


@pytest.mark.parametrize("key", SPARSITIES)
def test_official_run(key):
    recorded = np.load(toyvlm.DATA / "toyvlm_tamt.npz")
    order = np.load(toyvlm.DATA / "toyvlm_pruned.npz")["param_order"]
    model, batches = toyvlm.load()
    adapter = Watches()
    solution = vlp_bench.prune(model, "tamt", SPARSITIES[key], batches, adapter, options={"compat": "official"})
    np.testing.assert_allclose(adapter.losses, recorded[f"{key}/losses"], rtol=1e-5)
    np.testing.assert_allclose(adapter.zeros[::2], recorded[f"{key}/zero_fractions"], atol=3e-5)
    mask = np.concatenate([solution.masks[str(name)].numpy().ravel() for name in order])
    assert (np.unpackbits(recorded[f"{key}/mask"], count=len(mask)) != mask).sum() == 0
