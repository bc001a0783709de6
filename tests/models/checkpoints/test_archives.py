"""A few bytes that claim gigabytes are refused before they are unpacked, in every file of torch's and of numpy's."""

import io
import zipfile

import numpy as np
import pytest
import torch

from vlp_bench.models.checkpoints.read_write import CheckpointError
from vlp_bench.models.checkpoints.tensors import tensors_of
from vlp_bench.results import examples
from vlp_bench.runs.checkpointing import read_checkpoint
from vlp_bench.runs.terminal.errors import UserError


def deflated(content, path):
    stored = io.BytesIO()
    torch.save(content, stored)
    with zipfile.ZipFile(stored) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.namelist():
            target.writestr(member, source.read(member))
    return path


BOMB = {"state_dict": {"a": torch.zeros(1 << 22)}}  # 16 MiB in 16 KiB; a real one would have more zeros


def test_weights_that_are_compressed(tmp_path):
    file = deflated(BOMB, tmp_path / "w.pth")
    assert file.stat().st_size < 1 << 15
    with pytest.raises(CheckpointError, match="its parts are compressed, which torch's never are"):
        tensors_of(file, ["a"])


def test_a_checkpoint_that_is_compressed(tmp_path):
    with pytest.raises(UserError, match=r"last\.ckpt cannot be resumed from \(its parts are compressed"):
        read_checkpoint(deflated(BOMB, tmp_path / "last.ckpt"))


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")  # of torch 2.14, before we refuse it
@pytest.mark.parametrize("tensor", [torch.ones(1).half().expand(1 << 20, 1 << 20), torch.eye(4).to_sparse()])
def test_weights_that_claim_more_than_the_file_has(tensor, tmp_path):
    torch.save({"a": tensor}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="its 'a' is no plain tensor"):
        tensors_of(tmp_path / "w.pth", ["a"])


def test_weights_that_share_memory_are_read(tmp_path):
    both = torch.arange(4.0)
    torch.save({"a": both, "b": both, "c": both[1:], "d": both.view(2, 2).t()}, tmp_path / "w.pth")
    assert tensors_of(tmp_path / "w.pth", ["a"])["d"].tolist() == [[0.0, 2.0], [1.0, 3.0]]


def test_examples_that_unpack_to_too_much(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / examples.FILE, a=np.zeros(1 << 20))
    monkeypatch.setattr(examples, "LARGEST", 1 << 22)
    with pytest.raises(ValueError, match="it unpacks to more than 4 MiB"):
        examples.read(tmp_path)


def test_every_changed_byte_of_examples_is_one_line(tmp_path):
    file, refused = tmp_path / examples.FILE, []
    np.savez_compressed(file, a=np.arange(5.0), b=np.array(["x", "y"]))
    data = file.read_bytes()
    for place in range(len(data)):
        for bit in (1, 16, 128):
            file.write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])
            try:
                examples.read(tmp_path)
            except ValueError as error:
                refused.append(str(error))
    assert len(refused) > len(data)
    assert not any("\n" in reason for reason in refused)


@pytest.mark.parametrize("read", [lambda file: tensors_of(file, ["a"]), read_checkpoint])
def test_every_byte_of_a_tensor_is_looked_at(tmp_path, read):
    file = tmp_path / "w.pth"
    torch.save({"state_dict": {"a": torch.full((8,), 3.25)}}, file)
    whole = file.read_bytes()
    at = whole.index(torch.full((8,), 3.25).numpy().tobytes())
    read(file)
    for place in range(at, at + 32):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"its part .*data/0 is not what was written"):
            read(file)


def test_a_part_that_is_stored_twice_is_refused(tmp_path):
    file = tmp_path / "w.pth"
    torch.save({"a": torch.ones(8)}, file)
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(archive.namelist()[0], b"x")
    with pytest.raises(CheckpointError, match="it stores a part twice"):
        tensors_of(file, ["a"])
