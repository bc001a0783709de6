"""Checkpoints are whole or not there."""

import errno
import os
import pickle

import pytest
import torch

from vlp_bench.runs.checkpointing import WholeFiles, read_checkpoint, write_whole


def test_a_checkpoint_comes_back(tmp_path):
    WholeFiles().save_checkpoint({"state_dict": {"w": torch.arange(3.0)}}, tmp_path / "new" / "best.ckpt")
    back = torch.load(tmp_path / "new" / "best.ckpt", weights_only=True)
    assert torch.equal(back["state_dict"]["w"], torch.arange(3.0))


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, fails):
    path = tmp_path / "last.ckpt"
    write_whole(path, b"old")

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(os, fails, refuse)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "last.ckpt"
    write_whole(path, b"a longer old one")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    (tmp_path / "last.ckpt").write_bytes(pickle.dumps({"state_dict": {"w": Evil()}}))
    with pytest.raises(ValueError, match=r"cannot be resumed from .* force=true"):
        read_checkpoint(tmp_path / "last.ckpt")
    assert not (tmp_path / "owned").exists()
