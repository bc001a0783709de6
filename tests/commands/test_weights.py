"""`commands.weights check`: which model a file is of, what it lacks, and the exit code."""

import json

import pytest
import torch

from tests.models.tiny import blip, blip2, blip2_opt, clip, dino, xvlm
from vlp_bench.commands.weights import main
from vlp_bench.models.checkpoints import identify as module
from vlp_bench.models.checkpoints.identify import identify
from vlp_bench.models.checkpoints.locations import content_hash, initialisation, warn
from vlp_bench.models.checkpoints.read_write import save_model, weights_hash


@pytest.fixture
def small(monkeypatch):
    """Released files are held against tiny models instead of the papers'."""
    monkeypatch.setattr(module, "_papers", lambda: iter([xvlm.CONFIG, blip.CONFIG, dino.CONFIG]))


@pytest.fixture
def released(tmp_path):
    """A file in DINO's released naming."""
    from tests.models.test_dino import released as renamed

    torch.manual_seed(0)
    state = renamed(dino.model())

    def write(**changes):
        torch.save({n: t for n, t in (state | changes).items() if t is not None}, tmp_path / "dino.pth")
        return tmp_path / "dino.pth"

    return write


def checked(capsys, file):
    with pytest.raises(SystemExit) as stop:
        main(["check", str(file)])
    return stop.value.code, capsys.readouterr().out


@pytest.mark.parametrize("tiny, name", [(xvlm, "XVLM"), (blip, "BLIP"), (dino, "DINO")])
def test_a_file_of_ours(tiny, name, tmp_path, capsys):
    path = save_model(tmp_path / "x.safetensors", tiny.model(), dtype=torch.float16)
    code, said = checked(capsys, path)
    assert code == 0
    assert f"model       {name}, written by vlp_bench" in said
    assert weights_hash(path) in said
    assert "float16" in said
    assert "missing     none" in said


def test_a_released_file_is_recognised(small, released, capsys):
    code, said = checked(capsys, released())
    assert code == 0
    assert "model       DINO, released" in said
    assert "begins anew: classifier.bias, classifier.weight" in said


def test_what_is_missing_and_unexpected_is_listed(small, released, capsys):
    code, said = checked(capsys, released(**{"norm.bias": None, "surplus.weight": torch.ones(2)}))
    assert code == 1
    assert "none; nearest is DINO" in said
    assert "missing     1: vision_model.post_layernorm.bias" in said
    assert "unexpected  1: vision_model.surplus.weight" in said


def test_shapes_and_broken_numbers_are_told(small, released):
    found = identify(released(**{"norm.bias": torch.ones(3), "norm.weight": torch.full((16,), torch.nan)}))
    assert found.misshapen == ["vision_model.post_layernorm.bias (3,) for (16,)"]
    assert found.not_finite == ["norm.weight"]
    assert not found.fits


def test_another_image_size_is_no_fault(small, released):
    assert identify(released(pos_embed=torch.zeros(1, 17, 16))).fits


def test_the_paper_s_file_is_held_against_the_paper_s_sizes(released):
    """A tiny file has the names of two layers out of twelve, and none of their shapes."""
    found = identify(released())
    assert found.model == "DINO"
    assert len(found.missing) == 10 * 16
    assert found.misshapen


def test_files_that_cannot_be_read(tmp_path, capsys):
    for name, content in (("gone.pth", None), ("torn.safetensors", b"torn"), ("torn.pth", b"torn")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        code, said = checked(capsys, tmp_path / name)
        assert code == 2
        assert said == ""


FOLDERS = pytest.mark.parametrize(
    "tiny, inner, name", [(clip, "clip", "CLIP"), (blip2, "net", "BLIP-2"), (blip2_opt, "net", "BLIP-2")]
)


@FOLDERS
def test_a_folder_for_transformers(tiny, inner, name, tmp_path, capsys):
    getattr(tiny.model(), inner).to(torch.bfloat16).save_pretrained(tmp_path)
    code, said = checked(capsys, tmp_path)
    assert code == 0
    assert f"model       {name}, a folder for transformers' " in said
    assert content_hash(tmp_path) in said
    assert "bfloat16" in said
    assert "missing     none" in said


@FOLDERS
def test_faults_of_a_folder_are_listed(tiny, inner, name, tmp_path, capsys):
    net = getattr(tiny.model(), inner)
    state = net.state_dict()
    (gone, _), (short, weight), (broken, _) = [(n, t) for n, t in state.items() if n.endswith(".bias")][:3]
    state |= {short: torch.zeros(3), broken: torch.full_like(state[broken], torch.nan), "other.bias": weight.clone()}
    net.save_pretrained(tmp_path, state_dict={n: t for n, t in state.items() if n != gone})
    code, said = checked(capsys, tmp_path)
    assert code == 1
    assert f"nearest is {name}" in said
    for listed in (f"missing     1: {gone}", "unexpected  1: other.bias", f"misshapen   1: {short}", f"1: {broken}"):
        assert listed in said


def test_a_folder_without_weights(tmp_path, capsys):
    clip.model().clip.config.save_pretrained(tmp_path)
    code, said = checked(capsys, tmp_path)
    assert (code, said) == (2, "")


def test_hub_repositories_are_told_apart(caplog):
    assert "is the benchmark's initialisation" in initialisation("hf:facebook/dino-vitb16")
    assert "NOT the benchmark's" in initialisation("hf:Salesforce/blip-itm-base-coco")
    assert "fine-tuned" in initialisation("hf:Salesforce/blip-itm-base-coco@main")
    assert "another BLIP-2" in initialisation("hf:Salesforce/blip2-opt-2.7b")
    assert initialisation("weights/model.pth") == ""
    for place in ("weights/model.pth", "hf:facebook/dino-vitb16", "hf:Salesforce/blip-vqa-base"):
        warn(place)
    assert [record.message[:34] for record in caplog.records] == ["Salesforce/blip-vqa-base is NOT the"[:34]]


def test_a_repository_in_the_hub_s_cache(small, released, tmp_path, monkeypatch, capsys):
    """Nothing is fetched for what is there; what is not there is one line."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = tmp_path / "hub" / "models--facebook--dino-vitb16"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("a" * 40)
    snapshot = folder / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    released().rename(snapshot / "pytorch_model.bin")
    (snapshot / "config.json").write_text(json.dumps({"model_type": "vit"}))
    code, said = checked(capsys, "hf:facebook/dino-vitb16")
    assert code == 0
    assert "is the benchmark's initialisation: MULTIFLOW's DINO" in said
    assert "model_type vit" in said
    assert "model show" not in said
    code, said = checked(capsys, "hf:nobody/nothing")
    assert code == 2
