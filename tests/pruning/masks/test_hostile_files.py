"""Files that claim what they like: bounds first, then one line that says what is wrong."""

import io
import json
import resource
import zipfile
import zlib

import pytest
import torch

import vlp_bench
from tests.pruning.toys import sequential
from vlp_bench.pruning import released_masks
from vlp_bench.pruning.masks import packed_checkpoint
from vlp_bench.pruning.masks.file_format import FORMAT
from vlp_bench.pruning.masks.safetensors_files import write_tensors
from vlp_bench.pruning.solution import Solution

BITS = torch.tensor([0b1101], dtype=torch.uint8)
TABLE = [["", "", {"/w": [3, 2, 2]}]]


def mask_file(path, about, tensors=None, form="plain"):
    text = about if isinstance(about, str) else json.dumps(about)
    tensors = {"bits": BITS} if tensors is None else tensors
    if form == "compact":
        deflated = bytearray(zlib.compress(text.encode()))
        tensors = tensors | {"about": torch.frombuffer(deflated, dtype=torch.uint8)}
    header = {"format": FORMAT, "form": form} | ({"about": text} if form == "plain" else {})
    return write_tensors(path, tensors, header)


def test_the_same_by_hand_is_read(tmp_path):
    about = {"report": {}, "layers": TABLE}
    assert Solution.load(mask_file(tmp_path / "m", about)).masks["w"].tolist() == [[True, False], [True, True]]


def table(*entry):
    return {"report": {}, "layers": [["", "", {"/w": list(entry)}]]}


@pytest.mark.parametrize("form", ["plain", "compact"])
@pytest.mark.parametrize(
    "about, reason",
    [
        ("[" * 10_000 + "]" * 10_000, "recursion|self should be dict"),
        ({"report": {}, "layers": json.loads("[" * 500 + "]" * 500)}, "unpack"),
        ([1, 2], "should be dict and is list"),
        ({"report": [], "layers": TABLE}, "its report should be dict and is list"),
        ({"report": {}, "layers": {}}, "the table of layers should be list and is dict"),
        ({"report": {}, "layers": [["", "", [[3, 2, 2]]]]}, "a block's layers should be dict and is list"),
        ({"report": {}, "layers": [[1, "", {"/w": [3, 2, 2]}]]}, "a modality should be str and is int"),
        (table(3, -1, -4), r"w can't have shape \(-1, -4\)"),
        (table(3, 1 << 40, 1 << 40), "can't have shape"),
        (table(3, 2.0, 2), "a size of w should be int and is float"),
        (table(True, 2, 2), "what w keeps should be int and is bool"),
        (table("3", 2, 2), "what w keeps should be int and is str"),
        (table(), "unpack"),
        ("{", "Expecting"),
        ('{"report": ' + "9" * 5000 + "}", "digits"),
    ],
)
def test_what_a_mask_file_tells_about_itself(about, reason, form, tmp_path):
    path = mask_file(tmp_path / "m", about, form=form)
    with pytest.raises(ValueError, match=rf"m is a damaged mask file \(.*({reason}).*: prune again") as raised:
        Solution.load(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("form", ["plain", "compact"])
def test_layers_that_claim_too_much_together(form, tmp_path):
    half = [0, 1 << 17, 1 << 16]
    about = {"report": {}, "layers": [["", "", {"/a": half, "/b": half, "/c": half}]]}
    with pytest.raises(ValueError, match="its layers claim 25,769,803,776 weights, more than 17,179,869,184"):
        Solution.load(mask_file(tmp_path / "m", about, form=form))


def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_a_few_bytes_that_claim_gigabytes(tmp_path):
    bomb = mask_file(tmp_path / "m", '{"report": "' + " " * (1 << 28) + '"}', {}, "compact")
    assert bomb.stat().st_size < 1 << 19
    codes = {
        "codes": torch.zeros(4, dtype=torch.uint16),
        "lengths": torch.tensor([4]),
        "flags": torch.zeros(1, dtype=torch.uint8),
        "odds": torch.zeros(1, dtype=torch.int8),
    }
    wide = mask_file(tmp_path / "w", table(0, 1 << 16, 1 << 17), codes, "compact")
    before = peak_mib()
    with pytest.raises(ValueError, match="incomplete, or longer than 16 MiB"):
        Solution.load(bomb)
    with pytest.raises(ValueError, match=f"a code of 4 words can't hold {1 << 33} bits"):
        Solution.load(wide)
    assert peak_mib() - before < 100


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.bool, torch.uint8])
def test_new_weights_are_floating_point_numbers(dtype, tmp_path):
    values = {"bits": BITS, "w/weight": torch.ones(3).to(dtype)}
    path = mask_file(tmp_path / "m", {"report": {}, "layers": TABLE}, values)
    with pytest.raises(ValueError, match=f"new weights of 'w' are {dtype}: floating-point numbers are needed"):
        Solution.load(path)
    with pytest.raises(ValueError, match=f"new weights of 'w' are {dtype}"):
        Solution({"w": torch.ones(2, 2).bool()}, {"w": torch.ones(2, 2).to(dtype)}).save(tmp_path / "n")
    assert not (tmp_path / "n").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"index": "[" * 10_000},
        {"index": "[]"},
        {"index": json.dumps({"order": None, "aliases": [], "sparse": {}})},
        {"index": json.dumps({"order": None, "aliases": {}, "sparse": {"w": ["float32", -5, -10]}})},
        {"index": json.dumps({"order": None, "aliases": {}, "sparse": {"w": [["float32"], 50, 50]}})},
        {"index": json.dumps({"order": None, "aliases": {}, "sparse": {"w": []}})},
        {"index": json.dumps({"order": 5, "aliases": {}, "sparse": {}})},
        {"about": "[" * 10_000},
        {"about": "[1]"},
        {"form": "small"},
    ],
)
def test_what_a_packed_checkpoint_tells_about_itself(changes, tmp_path):
    index = {"order": None, "aliases": {}, "sparse": {"w": ["float32", 2, 2]}}
    header = {"format": packed_checkpoint.FORMAT, "form": "plain", "index": json.dumps(index), "about": "{}"}
    tensors = {"bits": BITS, "values/float32": torch.ones(3)}
    good = write_tensors(tmp_path / "good", tensors, header)
    assert packed_checkpoint.read(good)[0]["w"].tolist() == [[1.0, 0.0], [1.0, 1.0]]
    bad = write_tensors(tmp_path / "bad", tensors, header | changes)
    with pytest.raises(ValueError, match=r"bad is a damaged packed checkpoint \(.+\): export it again") as raised:
        packed_checkpoint.read(bad)
    assert "\n" not in str(raised.value)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")  # of torch 2.14, before we refuse it
def test_released_masks_that_claim_more_than_they_are(tmp_path):
    name, path = "vit.encoder.layer.0.attention.attention.query.weight_pruning_mask", tmp_path / "m.pth"
    torch.save({name: torch.ones(1).expand(1 << 20, 1 << 20)}, path)
    with pytest.raises(ValueError, match="is no plain tensor; give a mask file"):
        released_masks.read(path)
    torch.save({name: torch.eye(4).to_sparse()}, path)
    with pytest.raises(ValueError, match="is no plain tensor"):
        released_masks.read(path)
    torch.save({5: torch.eye(4)}, path)
    with pytest.raises(ValueError, match="no dictionary of tensors"):
        released_masks.read(path)
    content = io.BytesIO()
    torch.save({name: torch.ones(1 << 12, 1 << 12)}, content)
    with zipfile.ZipFile(content) as stored, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as deflated:
        for member in stored.namelist():
            deflated.writestr(member, stored.read(member))
    with pytest.raises(ValueError, match="its parts are compressed, which torch's never are"):
        released_masks.read(path)


def test_every_changed_byte_of_a_header_is_one_line(tmp_path):
    """Each character of the header becomes another one: read, or refused in one line."""
    path = vlp_bench.prune(sequential(), "omp", 0.5).save(tmp_path / "m")
    data, refusals = path.read_bytes(), []
    for position in range(8, min(len(data), 700), 3):
        for other in b'{[-9"':
            path.write_bytes(data[:position] + bytes([other]) + data[position + 1 :])
            try:
                Solution.load(path)
            except ValueError as reason:
                refusals.append(str(reason))
    assert len(refusals) > 1000
    assert not any("\n" in reason for reason in refusals)
