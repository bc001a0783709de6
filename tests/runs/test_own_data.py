"""A folder of one's own, four keys: a dense and a pruned run, and what is said where something is missing."""

import json
import re
import sys
from pathlib import Path

import pytest
from hydra.errors import InstantiationException

from tests.support import own_folder
from vlp_bench.results.store import Store
from vlp_bench.results.tables import test_values as values
from vlp_bench.runs.run import Helpers, run
from vlp_bench.runs.terminal.errors import explain

SMALL = ("recipe.epochs=1", "recipe.target_batch=16", "data.batch_size=16", "trainer=cpu",
         "data.calibration.batch_size=8", "data.calibration.num_batches=2")  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own_folder.write(tmp_path_factory.mktemp("mine") / "data")


@pytest.fixture
def own(tiny_weights, tmp_path):
    """Words -> the specification of a run on one's own data with the tiny model."""
    from hydra import compose, initialize_config_dir

    from vlp_bench.runs.specification import register, specify
    from vlp_bench.runs.terminal.conf import conf_folder

    def specification(exp: str, root: Path, form: str, *words: str):
        register()
        given = [f"+exp={exp}", "data=own", f"data.root={root}", f"data.format={form}"]
        given += [] if exp.startswith("dino") else [f"model.weights={tiny_weights}"]
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            config = compose("config", [*given, *SMALL, f"paths.out={tmp_path}/out", *words], return_hydra_config=True)
        return specify(config, config.hydra)

    return specification


def performed(specification) -> dict[str, float]:
    run(specification, Helpers())
    return values(Store(specification.out / "runs").query(), run=specification.run)


def test_a_dense_and_a_pruned_run_on_three_hundred_pictures(own, folder, capsys, caplog) -> None:
    for pruner, sparsity in (("dense", 0), ("wanda", 0.5)):
        found = performed(
            own("xvlm_itr", folder, "karpathy", "task.k_test=4", f"pruner={pruner}", f"sparsity={sparsity}")
        )
        assert 0 <= found["r_mean"] <= 100
    said = " ".join(capsys.readouterr().out.split())
    assert f"data=own: your own data in {folder}, calibrated on its training split" in said
    assert "embedded world" not in said
    assert "train: 0.8% of" in caplog.text
    assert "words are not in the vocabulary ('zyxt')" in caplog.text


def test_captions_of_ones_own_choose_their_epoch_by_cider(own, folder) -> None:
    pytest.importorskip("pycocoevalcap")
    specification = own("xvlm_ic", folder, "karpathy", "pruner=omp", "sparsity=0.5", "task.max_length=8")
    found = performed(specification)
    assert "cider_regex" in found
    assert "truth" not in found


def test_questions_of_ones_own(own, folder, tmp_path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/images").symlink_to(folder / "images")
    records = json.loads((folder / "dataset.json").read_text())["images"]
    for split in ("train", "val"):
        chosen = [r for r in records if r["split"] == split]
        listed = [{"question_id": n, "question": "what colour is it", "image": r["filename"],
                   "answer": r["sentences"][0]["raw"].split()[1]} for n, r in enumerate(chosen)]  # fmt: skip
        (tmp_path / f"mine/{split}.json").write_text(json.dumps(listed))
    found = performed(own("xvlm_vqa", tmp_path / "mine", "salesforce", "pruner=omp", "sparsity=0.5"))
    assert 0 <= found["accuracy"] <= 100


def test_classes_of_ones_own_are_counted(own, tmp_path) -> None:
    for split, places in (("train", range(20)), ("val", range(20, 25))):
        for shape in own_folder.SHAPES:
            (tmp_path / "mine" / split / shape).mkdir(parents=True)
            for i in places:
                own_folder.drawn(shape, "red", i).save(tmp_path / "mine" / split / shape / f"{i}.png")
    specification = own("dino_cls", tmp_path / "mine", "imagefolder", "pruner=omp", "sparsity=0.5")
    assert specification.config["task"]["classes"] == 3
    assert 0 <= performed(specification)["accuracy"] <= 100


@pytest.mark.parametrize(
    "words, says",
    [
        (["data.vocab={folder}/large.txt"], r"large\.txt has 5,005 words, the model's table \d+: give the vocabulary"),
        (
            ["data.vocab={folder}/other.txt"],
            r"train: 100\.0% of .* words are not in the vocabulary .* data\.max_unknown",
        ),
        (["data.format=vqav2"], "data.format=vqav2: there is no such format here; allowed: salesforce, karpathy"),
        (["data.format=coco"], "which file has the train split of format coco.* data.train=FILE"),
        (["data.root={folder}/nowhere"], "nowhere: there is no such folder"),
        (["data.orientation=sideways"], "orientation=sideways: it is one of upright, compat"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_is_pruned(own, folder, tmp_path, words, says) -> None:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "large.txt").write_text("\n".join([*special, *(f"word{n}" for n in range(5000))]))
    (folder / "other.txt").write_text("\n".join([*special, "ein", "roter", "kreis"]))
    specification = own("xvlm_itr", folder, "karpathy", *(word.format(folder=folder) for word in words))
    with pytest.raises((ValueError, InstantiationException)) as error:
        performed(specification)
    assert re.search(says, explain(error.value) or "")
    assert not list((tmp_path / "out").glob("masks/*"))


def test_the_check_reads_the_same_folder(folder, monkeypatch, capsys) -> None:
    from vlp_bench.commands import data

    words = ["check", "+exp=xvlm_itr", "data=own", f"data.root={folder}", "data.format=karpathy", "--all"]
    monkeypatch.setattr(sys, "argv", ["data", *words])
    data.main()
    said = capsys.readouterr().out
    assert "train: 240 records, 480 captions, 240 images, 240 opened, 0 broken" in said
    for kind in ("CMYK", "turned upright by EXIF"):
        assert f"8 images are {kind}" in said
    for kind in ("transparent, shown on white", "16-bit, scaled to 8"):
        assert f"7 images are {kind}" in said
    assert "note: 0.8% of 1,935 words are not in the vocabulary ('zyxt')" in said
