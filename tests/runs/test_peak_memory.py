"""Peak memory: what a block of work held at most."""

import pytest
import torch

from vlp_bench.runs import device as memory


def test_the_peak_of_a_block_holds_what_it_allocated():
    cpu = torch.device("cpu")
    with memory.peak(cpu) as small:
        pass
    with memory.peak(cpu) as large:
        torch.ones(50_000_000, dtype=torch.uint8).sum()  # 0.05 GB, gone at the end
    if small.gigabytes is None or large.gigabytes is None:
        pytest.skip("this system does not tell the memory of a process")
    assert large.gigabytes - small.gigabytes > 0.04


def test_nothing_is_said_where_the_system_does_not_tell(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "RESET", tmp_path / "no" / "such")
    with memory.peak(torch.device("cpu")) as found:
        pass
    assert found.gigabytes is None
