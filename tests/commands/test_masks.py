"""`commands.masks`: what is shown, compared and converted, and what is refused in one line."""

import subprocess
import sys

import pytest
import torch

import vlp_bench
from tests.models.small import SMALL_XVLM
from vlp_bench.commands import masks
from vlp_bench.models.checkpoints.read_write import save_model
from vlp_bench.models.xvlm.model import XVLM
from vlp_bench.pruning import another_sparsity as stored_scores
from vlp_bench.pruning.solution import Solution
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.runs.prune_once import scores_file
from vlp_bench.runs.terminal.console import console, stderr

HEAVY = {"torch", "numpy", "lightning", "transformers", "pandas", "matplotlib", "hydra"}


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return XVLM(SMALL_XVLM).eval()


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    """A MULTIFLOW mask at 75 %, its scores beside it, and the checkpoint that was pruned."""
    from vlp_bench.batch import Batch

    folder, draw = tmp_path_factory.mktemp("masks"), torch.Generator().manual_seed(1)
    ids, images = torch.randint(1, 20, (4, 6), generator=draw), torch.randn(4, 3, 24, 24, generator=draw)
    calibration = Calibration(model, [Batch(images, ids, torch.ones(4, 6).long())])
    path = vlp_bench.prune(model, "multiflow", 0.75, calibration).save(folder / "mask.safetensors")
    stored_scores.write(scores_file(path), calibration)
    save_model(folder / "model.safetensors", model)
    vlp_bench.prune(model, "multiflow", 0.9, calibration).save(folder / "fresh.safetensors")
    vlp_bench.prune(model, "omp", 0.75).save(folder / "omp.safetensors")
    return path


def said(*words):
    with console.capture() as captured:
        masks.main([str(word) for word in words])
    return captured.get()


def refused(*words):
    with stderr.capture() as captured, pytest.raises(SystemExit) as exit_:
        masks.main([str(word) for word in words])
    assert exit_.value.code == 2
    return captured.get()


def test_help_is_light():
    code = (
        "import sys; from vlp_bench.commands.masks import parser\n"
        "try: parser().parse_args(['--help'])\n"
        f"except SystemExit: sys.exit(', '.join({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
    assert "masks show FILE" in done.stdout


def test_show(file):
    text = said("show", file, "--by", "modality")
    for words in ("multiflow", "allocate.group_by=modality", "seed=0", "75.0000 %", "asked for: 75 %", "calibration "):
        assert words in text
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.split()}
    assert {"vision", "text", "fusion", "all"} <= set(lines)
    solution = Solution.load(file)
    assert lines["all"][1:3] == [f"{solution.total:,}", f"{solution.kept:,}"]
    assert lines["fusion"][3] == "75.00"


@pytest.mark.parametrize("by, rows", [("layer", 18 + 6 + 20), ("block", 3 + 1 + 2), ("modality", 0)])
def test_rows(file, by, rows):
    text = said("show", file, "--by", by)
    assert sum(line.rstrip().endswith("%") for line in text.splitlines()) == rows + 3 + 1


def test_diff(file, tmp_path):
    same = said("diff", file, file)
    assert {line.split()[-6] for line in same.splitlines() if line.rstrip().endswith("%")} == {"1.0000"}
    first, second = Solution.load(file).masks, Solution.load(file.parent / "omp.safetensors").masks
    both = sum(int((first[name] & second[name]).sum()) for name in first)
    either = sum(int((first[name] | second[name]).sum()) for name in first)
    text = said("diff", file, file.parent / "omp.safetensors", "--by", "modality")
    assert text.splitlines()[-2].split()[:3] == ["all", f"{both / either:.4f}", f"{either - both:,}"]
    assert "only one of the two has a mask" in refused("diff", file, other(tmp_path))


def other(folder):
    return Solution({"w": torch.ones(2, 2, dtype=torch.bool)}).save(folder / "other.safetensors")


def test_another_sparsity(file, tmp_path):
    out, fresh = tmp_path / "out.safetensors", Solution.load(file.parent / "fresh.safetensors")
    said("convert", file, out, "--sparsity", 0.9, "--weights", file.parent / "model.safetensors", "--form", "compact")
    derived = Solution.load(out)
    assert all(derived.masks[name].equal(mask) for name, mask in fresh.masks.items())
    assert derived.report["hashes"] == fresh.report["hashes"]
    assert "holds no" in refused("convert", file, out, "--sparsity", 0.9)  # the shipped checkpoint is another model
    assert "no such file" in refused("convert", file, out, "--sparsity", 0.9, "--weights", tmp_path / "x.safetensors")
    assert "no file of scores" in refused(
        "convert",
        file.parent / "omp.safetensors",
        out,
        "--sparsity",
        0.9,
        "--weights",
        file.parent / "model.safetensors",
    )


def test_released_and_back(file, tmp_path):
    said("convert", file, tmp_path / "theirs.pth")
    theirs = torch.load(tmp_path / "theirs.pth", weights_only=True)
    assert "vision_encoder.encoder.layers.0.mlp.fc1.weight_pruning_mask" in theirs
    said("convert", tmp_path / "theirs.pth", tmp_path / "back.safetensors")
    back, first = Solution.load(tmp_path / "back.safetensors"), Solution.load(file)
    assert all(back.masks[name].equal(mask) for name, mask in first.masks.items())
    assert back.report["layers"] == first.report["layers"]
    assert "released with MULTIFLOW for XVLM" in said("show", tmp_path / "theirs.pth")
    assert "have no released names" in refused("convert", other(tmp_path), tmp_path / "x.pth")


def test_inverted(file, tmp_path):
    said("convert", file, tmp_path / "out.safetensors", "--inverted")
    inverted = Solution.load(tmp_path / "out.safetensors")
    assert all(inverted.masks[name].equal(~mask) for name, mask in Solution.load(file).masks.items())
    assert "multiflow, inverted" in said("show", tmp_path / "out.safetensors")


def test_what_is_no_mask_is_refused_in_a_line(file, tmp_path):
    (tmp_path / "garbage.safetensors").write_bytes(b"garbage")
    for words, message in (
        (("show", tmp_path / "garbage.safetensors"), "truncated or no mask file"),
        (("show", file.parent / "model.safetensors"), "is no mask file"),
        (("show", tmp_path / "missing.safetensors"), "no mask file at"),
        (("convert", file, tmp_path / "out.txt"), "ends in .safetensors (ours), or in .pth"),
    ):
        line = refused(*words)
        assert message in line
        assert len(line.strip().splitlines()) == 1
