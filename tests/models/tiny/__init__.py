"""One file for every model: `model(attention)` builds it small, `batches()` gives it something to read.

`test_contract.py` takes up whatever lies here.
"""

import torch

from vlp_bench.batch import Batch


def words(seed: int, *, masked: bool = False, patches: int = 0) -> Batch:
    """4 images of 16 pixels with captions of 6, 6, 4 and 3 tokens; with `patches`, 2 images with two regions each."""
    draw = torch.Generator().manual_seed(seed)
    atts = (torch.arange(6) < torch.tensor([[6], [6], [4], [3]])).long()
    ids = torch.randint(5, 30, (4, 6), generator=draw) * atts
    batch = Batch(torch.randn(2 if patches else 4, 3, 16, 16, generator=draw), ids, atts)
    if masked:
        batch.text_ids_masked, batch.masked_pos = ids.index_fill(1, torch.tensor([2]), 4), torch.tensor([[2, 0]] * 4)
        batch.masked_ids = torch.stack([ids[:, 2], torch.full((4,), -100)], dim=1)
    if patches:
        batch.idx_to_group_img = torch.tensor([0, 0, 1, 1])
        batch.image_atts = torch.ones(4, 1 + patches).index_fill(1, torch.tensor([2]), 0)
    else:
        batch.idx = torch.arange(4)
    return batch


def labelled(seed: int) -> Batch:
    """4 images of 16 pixels with a class from 0 to 4."""
    draw = torch.Generator().manual_seed(seed)
    return Batch(torch.randn(4, 3, 16, 16, generator=draw), labels=torch.randint(0, 5, (4,), generator=draw))
