"""`taken`: rows of a batch, some of them several times, and their gradient whatever the threads."""

import torch

from vlp_bench.models.rows import taken


def gradient(choose):
    x = torch.zeros(12, 37, 256, requires_grad=True)
    rows = torch.tensor([*range(12), *[3, 0, 5, 3, 7, 3, 1, 9, 0, 2, 6, 8], *range(12)])
    choose(x, rows).backward(torch.sin(torch.arange(36 * 37 * 256.0)).reshape(36, 37, 256))
    return x.grad


def test_rows_are_those_of_indexing():
    x, rows = torch.randn(4, 3), torch.tensor([2, 2, 0, 3, 2])
    assert taken(x, rows).equal(x[rows])


def test_the_gradient_is_the_same_every_time_and_with_any_number_of_threads():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone, indexed = gradient(taken), gradient(lambda x, rows: x[rows])
        torch.set_num_threads(4)
        assert all(gradient(taken).equal(alone) for _ in range(20))
    finally:
        torch.set_num_threads(before)
    assert alone.equal(indexed)  # on one thread as before: stored results stand
