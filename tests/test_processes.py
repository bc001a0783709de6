"""Several processes find what one process with the whole batch finds: losses, gradients, queues, masks."""

import copy
import dataclasses

import pytest
import torch

from tests.models.small import SMALL_BLIP, SMALL_XVLM
from tests.pruning import test_tokens as mixed
from tests.pruning.test_xvlm import CONFIG, batch
from tests.support.forked import together
from vlp_bench import processes
from vlp_bench.batch import Batch
from vlp_bench.models.blip.model import BLIP
from vlp_bench.models.xvlm.model import XVLM
from vlp_bench.pruning import catalogue
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.on_disk import StatisticsFolder


def test_alone_everything_is_the_identity():
    x = torch.rand(3, 2)
    assert processes.gather(x) is x
    assert processes.gather_padded(x) is x
    assert torch.equal(processes.mean(x), x)
    assert processes.own_rows(3, x.device).tolist() == [0, 1, 2]
    assert (processes.size(), processes.rank(), processes.is_main(), processes.agreed(True)) == (1, 0, True, True)
    processes.check_same("f" * 16, "mask")


def exchange():
    rank = processes.rank()
    mine = torch.tensor([[1.0 + rank], [3.0 + rank]], requires_grad=True)
    every = processes.gather(mine)
    (every.flatten() * torch.tensor([1.0, 2, 3, 4]) * (1 + rank)).sum().backward()
    with processes.apart():
        alone = processes.gather(mine)
    padded = processes.gather_padded(torch.full((1, 1 + rank), 7))
    sent = processes.from_owner([torch.tensor([[5.0]]), torch.tensor([8, 9])] if rank == 1 else None, 1, mine.device)
    try:
        processes.check_same("123456789abcdef" if rank else "023456789abcdef", "mask")
        refused = ""
    except RuntimeError as error:
        refused = str(error)
    processes.check_same("123456789abcdef", "mask")
    return {
        "every": every.detach().flatten(), "grad": mine.grad.flatten(), "alone": len(alone), "padded": padded,
        "mean": processes.mean(torch.tensor(float(rank))), "agreed": processes.agreed(rank == 0), "refused": refused,
        "rows": processes.own_rows(2, mine.device), "sent": sent,
    }  # fmt: skip


def test_what_two_processes_tell_each_other(tmp_path):
    first, second = together(2, exchange, tmp_path)
    for found in (first, second):
        assert found["every"].tolist() == [1, 2, 3, 4]  # row by row, as one process would have them
        assert found["alone"] == 2
        assert found["padded"].tolist() == [[7, 0], [7, 7]]
        assert (float(found["mean"]), found["agreed"]) == (0.5, True)
        assert "do not hold the same mask: 023456789abcdef, 123456789abcdef" in found["refused"]
        assert [tensor.tolist() for tensor in found["sent"]] == [[[5.0]], [8, 9]]
    assert first["grad"].tolist() == [1 * 3, 3 * 3]  # what both processes found, 1 + 2 times the factor of the row
    assert second["grad"].tolist() == [2 * 3, 4 * 3]
    assert (first["rows"].tolist(), second["rows"].tolist()) == ([0, 2], [1, 3])


def pairs():
    """4 captioned images; image 0 is there twice."""
    draw = torch.Generator().manual_seed(1)
    atts = (torch.arange(6) < torch.tensor([[6], [4], [3], [4]])).long()
    ids = torch.randint(1, 20, (4, 6), generator=draw) * atts
    return Batch(torch.randn(4, 3, 24, 24, generator=draw), ids, atts, idx=torch.tensor([0, 1, 0, 3]))


def own_part(whole):
    """The rows of this process, texts cut to its longest."""
    rows = processes.own_rows(len(whole.images) // processes.size(), whole.images.device)
    longest = int(whole.text_atts[rows].sum(1).max())
    return dataclasses.replace(
        whole,
        images=whole.images[rows], text_ids=whole.text_ids[rows, :longest], text_atts=whole.text_atts[rows, :longest],
        idx=whole.idx[rows],
    )  # fmt: skip


def two_steps(model):
    """Losses, gradients and queues of two steps, averaged over the processes as DDP averages."""
    for step in range(2):
        losses = model.retrieval_losses(own_part(pairs()), torch.Generator().manual_seed(step))
        torch.stack(list(losses.values())).sum().backward()
    means = {name: processes.mean(value) for name, value in losses.items()}
    grads = {n: processes.mean(p.grad) for n, p in model.named_parameters() if p.grad is not None}
    return {"losses": means, "grads": grads, "queues": dict(model.named_buffers())}


@pytest.mark.parametrize("kind", ("xvlm", "blip"))
def test_losses_gradients_and_queues_are_those_of_one_process(kind, tmp_path):
    torch.manual_seed(0)
    model = XVLM(SMALL_XVLM).eval() if kind == "xvlm" else BLIP(SMALL_BLIP).eval()
    alone = two_steps(copy.deepcopy(model))
    first, second = together(2, lambda: two_steps(model), tmp_path)
    for name, value in alone["losses"].items():
        assert float(first["losses"][name]) == pytest.approx(float(value), abs=1e-5)
    assert set(first["grads"]) == set(alone["grads"])
    for name, gradient in alone["grads"].items():
        torch.testing.assert_close(first["grads"][name], gradient, atol=1e-5, rtol=1e-4)
    for name, queue in first["queues"].items():
        assert torch.equal(queue, second["queues"][name])
        torch.testing.assert_close(queue, alone["queues"][name], atol=1e-6, rtol=1e-5)
    if kind == "blip":
        assert int(first["queues"]["queue_ptr"]) == 8


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return XVLM(CONFIG).eval()


PRUNERS = ("multiflow", "snip")
SLOW = ("wanda", "ecoflap_first")


def pruned(model, folder=None, names=PRUNERS, options=None):
    batches = [[batch(2 * i, region=False), batch(2 * i + 1, region=True)] for i in range(5)]
    found = {}
    for name in names:
        kept = None if folder is None else StatisticsFolder(folder)
        calibration = Calibration(model, batches, shared=True, stored=kept)
        found[name] = catalogue.load(name, options).prune(model, 0.6, calibration)
    return {name: {"masks": s.masks, "data": s.report["hashes"]["calibration"]} for name, s in found.items()}


@pytest.mark.parametrize(
    "count, names", [(2, PRUNERS), (4, PRUNERS[:1]), pytest.param(4, PRUNERS + SLOW, marks=pytest.mark.slow)]
)
def test_one_two_and_four_processes_find_the_same_masks_bit_for_bit(model, tmp_path, count, names):
    alone = pruned(model, names=names)
    for found in together(count, lambda: pruned(model, names=names), tmp_path):
        for name in names:
            assert found[name]["data"] == alone[name]["data"]
            assert all(torch.equal(found[name]["masks"][n], mask) for n, mask in alone[name]["masks"].items())


def test_block_gradients_similarities_and_chosen_tokens_are_those_of_one_process(model, tmp_path):
    names, options = ("wanda_pp", "tamp"), {"sweep": "at_once"}
    alone = pruned(model, None, names, options)
    for found in together(2, lambda: pruned(model, None, names, options), tmp_path):
        for name in names:
            assert all(torch.equal(found[name]["masks"][n], mask) for n, mask in alone[name]["masks"].items())


@pytest.mark.parametrize(
    "name, options", [("wanda_pp_ro", {}), ("atv", {"tokens.alpha": 0.3}), ("wanda_pp_ro", {"tokens": "amia"})]
)
def test_what_looks_at_several_batches_at_a_time_does_so_in_every_process(tmp_path, name, options):
    model, data = mixed.blocks(), mixed.batches(5)
    options = options | ({"solve.lr": 1e-3, "solve.share": 1.0} if name == "wanda_pp_ro" else {})

    def found():
        calibration = Calibration(model, data, mixed.Mixed(), shared=True)
        solution = catalogue.load(name, options).prune(model, 0.5, calibration)
        return {"masks": solution.masks, "weights": solution.weights}

    alone = found()
    for own in together(2, found, tmp_path):
        for kind, expected in alone.items():
            assert all(torch.equal(own[kind][n], tensor) for n, tensor in expected.items())


def test_processes_share_what_is_kept_on_disk(model, tmp_path):
    together(2, lambda: pruned(model, tmp_path / "kept"), tmp_path / "2")
    stored = sorted(file.name for file in (tmp_path / "kept").iterdir())
    assert stored == ["InputNorms-corrected.safetensors", "MeanGradient.safetensors"]
    again, alone = pruned(model, tmp_path / "kept"), pruned(model)
    for name in PRUNERS:
        assert all(torch.equal(again[name]["masks"][n], mask) for n, mask in alone[name]["masks"].items())
        assert again[name]["data"] == alone[name]["data"]


def test_a_batch_is_computed_by_one_process_alone(model, tmp_path):
    def encoded():
        seen = []
        calibration = Calibration(model, [batch(i, region=False) for i in range(5)], shared=True)
        encode = type(calibration.adapter).encode
        type(calibration.adapter).encode = lambda *given: (seen.append(1), encode(*given))
        calibration.norms()
        return len(seen)

    assert together(2, encoded, tmp_path) == [3, 2]


def test_a_loss_with_a_memory_is_computed_by_all():
    assert not Calibration(BLIP(SMALL_BLIP), [pairs()], shared=True)._shares_gradients
