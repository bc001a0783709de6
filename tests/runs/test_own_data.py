"""A folder of one's own, four keys: a dense and a pruned run, and what is said where something is missing."""

import json
import os
import re
import runpy
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import get_type_hints

import pytest
from hydra.errors import InstantiationException
from lightning.pytorch import Callback
from rich.console import Console

import vlp_bench
from tests.support import own_folder
from vlp_bench.annotations import parameters
from vlp_bench.construct import construct
from vlp_bench.data import checking
from vlp_bench.data.datasets import own as own_datasets
from vlp_bench.results.store import Store
from vlp_bench.results.tables import test_values as values
from vlp_bench.runs.object_cache import ObjectCache
from vlp_bench.runs.run import Helpers, run
from vlp_bench.runs.specification import specification_of
from vlp_bench.runs.suitability import inspect
from vlp_bench.runs.terminal.errors import UserError, explain
from vlp_bench.runs.trial_construction import construct_all

SMALL = ("recipe.epochs=1", "recipe.target_batch=16", "data.batch_size=16", "trainer=cpu",
         "data.calibration.batch_size=8", "data.calibration.num_batches=2")  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own_folder.write(tmp_path_factory.mktemp("mine") / "data")


@pytest.fixture
def own(tiny_weights, tmp_path):
    """Words -> the specification of a run on one's own data with the tiny model."""

    def specification(exp: str, root: Path, form: str, *words: str):
        given = [f"+exp={exp}", "data=own", f"data.root={root}", f"data.format={form}"]
        given += [] if exp.startswith("dino") else [f"model.weights={tiny_weights}"]
        return specification_of([*given, *SMALL, f"paths.out={tmp_path}/out", *words])

    return specification


def performed(specification) -> dict[str, float]:
    run(specification, Helpers())
    return values(Store(specification.out / "runs").query(), run=specification.run)


ANY = {"captions": "xvlm_itr", "questions": "xvlm_vqa", "pairs": "blip_nlvr2", "classes": "clip_zeroshot"}
CUT = {  # batches that a rehearsal's sizes leave
    "xvlm_itr": ("xvlm_ic", "blip_itr", "blip_ic"), "xvlm_vqa": ("blip_vqa",), "clip_zeroshot": ("dino_cls",),
}  # fmt: skip
FORMS = [(kind, form) for kind, forms in own_folder.FORMS.items() for form in forms] + [("captions", "karpathy")]


@pytest.fixture
def typed(tmp_path):
    """Words as they are typed, after `vlp-bench run` -> their specification."""

    def specification(*words: str):
        return specification_of([*words, f"paths.out={tmp_path}/out"])

    return specification


@pytest.mark.parametrize(("kind", "form"), FORMS)
def test_four_keys_suffice_for_every_form(typed, tmp_path, kind, form) -> None:
    """Everything but the model is constructed, with the batches of the task and not others that are typed."""
    if form == "parquet":
        pytest.importorskip("pyarrow")
    own_folder.write_as(tmp_path / "mine", kind, form)
    for exp in (ANY[kind], *CUT.get(ANY[kind], ())):
        specification = typed(f"+exp={exp}", "data=own", f"data.root={tmp_path}/mine", f"data.format={form}")
        construct_all(specification)
        data = construct(specification.config["data"], "data")
        splits = {name: read() for name, read in checking.splits_of(data.source).items()}
        # CIFAR keeps no images for validation: its training split has theirs
        sizes = {"train": 48, "val": 6, "test": 6} if form != "cifar" else {"train": 54, "val": 6, "test": 6}
        if kind == "pairs":
            data.inspect(None)
        assert {name: len(splits[name].records) for name in sizes} == sizes
        assert splits["val"].images.open(checking.keys(splits["val"].records[0])[0]).mode == "RGB"
        assert len(list(data.calibration())) >= 1
        assert (specification.benchmark, specification.identity()["benchmark"]) == ("own", "own")


def test_a_file_of_another_form_names_the_key_that_is_there(tmp_path) -> None:
    """Whatever is found while a file is read: there is no data.source with data=own."""
    (tmp_path / "train.json").write_text('[{"image": "a.png", "caption": "a"}]')
    for split in ("val", "test"):
        (tmp_path / f"{split}.json").write_text('[{"image": "a.png", "caption": ["a"]}]')
    with pytest.raises(ValueError, match=r"looks like the lists of X-VLM.*: set data\.format=salesforce$"):
        own_datasets.own_data(
            task="vlp_bench.tasks.retrieval.Retrieval", calibration=SimpleNamespace(), root=str(tmp_path), format="coco"
        )


@pytest.mark.parametrize(
    "words, says",
    [
        (["+exp=xvlm_itr"], r"data=own lacks data\.root=FOLDER \(.*\) and data\.format=NAME \(.* salesforce, "
         r".*; e\.g\. \+exp=xvlm_itr data=own data\.root=my_pictures data\.format=salesforce$"),
        (["+exp=xvlm_vqa", "data.root=here"], r"data=own lacks data\.format=.* vqav2, .*root=here data\.format=sal"),
        (["+exp=dino_cls"], r"data=own lacks data\.root=.* imagefolder, coop, .* data\.format=imagefolder$"),
        (["+exp=clip_zeroshot", "data.format=coop"], r"data=own lacks data\.root=.* data\.format=coop$"),
        (["+exp=dino_cls", "data.root=x", "data.format=y"], r"^data\.format=y: there is no such format here"),
        (["+exp=dino_cls", "data.root=x", "data.format=coop"], r"^data\.root=x: there is no such folder$"),
    ],
)  # fmt: skip
def test_what_is_missing_is_said_in_one_line(typed, words, says) -> None:
    with pytest.raises(UserError) as error:
        typed("data=own", *words)
    assert re.search(says, str(error.value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "word, says",
    [
        (
            "+data.nope=1",
            "data.nope=1: there is no value data.nope; allowed in data: answer_list, batch_size, ",
        ),
        ("+data.language=x", "data.language=x: there is no value data.language; allowed in data: "),
        ("data.max_unknown=abc", "data.max_unknown=abc: expected a finite number"),
        ("data.train=5", "data.train=5: expected text or null; in quotes if it is one: \"'5'\""),
        (
            "data.sentences=null",
            "data.sentences=null: the data of Retrieval don't read it, only those of ZeroShot; leave it out",
        ),
        ("data.format=nope", "data.format=nope: there is no such format here; allowed: salesforce, karpathy, "),
        ("data.orientation=up", "data.orientation=up: it is one of upright, compat"),
        ("data.general_format=nope", "data.general_format=nope: there is no such format here; allowed: "),
        ("data.max_broken=-1", "data.max_broken must be 0 or more, got -1"),
        ("data.num_workers=-1", "data.num_workers must be 0 or more, got -1"),
    ],
)
def test_a_wrong_key_is_one_line_and_nothing_before_it(own, folder, capsys, word, says) -> None:

    def typed_in() -> None:
        specification = own("xvlm_itr", folder, "karpathy", word)
        construct_all(specification)
        performed(specification)

    with pytest.raises(ValueError) as error:
        typed_in()
    assert (explain(error.value) or "").startswith(says)
    assert capsys.readouterr().out == ""


def test_every_setting_of_ones_own_data_is_annotated_as_what_takes_it() -> None:
    given, makers = get_type_hints(own_datasets.Given), {kind: make for kind, (make, *_) in own_datasets.KINDS.items()}
    assert get_type_hints(own_datasets.Files).items() <= given.items()
    for kind, options in own_datasets.OPTIONS.items():
        known = parameters(makers[kind]).kinds
        for name in (*own_datasets.COMMON, *options):
            assert given[name] == known[name], name


def test_classes_that_the_small_model_has_no_word_for_are_refused(typed, tmp_path) -> None:
    own_folder.write_as(tmp_path / "mine", "classes", "imagefolder")
    for split in own_folder.SPLITS:
        (tmp_path / "mine" / split / "circle").rename(tmp_path / "mine" / split / "okapi")
    words = ["+exp=clip_zeroshot", "data=own", f"data.root={tmp_path}/mine", "data.format=imagefolder"]
    with pytest.raises(ValueError, match=r"'there is a large okapi': 6\.7% of 15 words .*'okapi'"):
        construct(typed(*words, "data.max_unknown=0").config["data"], "data")
    data = construct(typed(*words, "data.max_unknown=0.5").config["data"], "data")
    assert data.classes == ("okapi", "square", "triangle")


def test_files_elsewhere_are_not_called_the_papers(typed, tmp_path, capsys) -> None:
    from vlp_bench.data.minicopy import write
    from vlp_bench.runs import screen

    copy = write(tmp_path / "copy", 20)
    (tmp_path / "copy/weights").mkdir()
    (mine := tmp_path / "mine.json").write_text((copy.root / "finetune/itr/coco_train.json").read_text())
    weights = Path(vlp_bench.__file__).parent / "assets/xvlm_shapes.safetensors"
    words = ["+exp=xvlm_itr", "benchmark=paper", f"paths.data={copy.root}", f"model.weights={weights}"]
    assert typed(*words).benchmark == "paper"
    elsewhere = typed(*words, f"data.source.train={mine}")
    assert elsewhere.benchmark == "own"
    screen.header(Console(width=300), elsewhere)
    said = capsys.readouterr().out
    assert f"your own data (data.source.train={mine}), calibrated on {copy.root}/pretrain/" in said
    assert "the papers' data" not in said


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


def test_captions_of_ones_own_choose_their_epoch_by_cider(own, folder, capsys) -> None:
    pytest.importorskip("pycocoevalcap")
    specification = own("xvlm_ic", folder, "karpathy", "pruner=omp", "sparsity=0.5", "task.max_length=8")
    found = performed(specification)
    assert "cider_regex" in found
    assert "truth" not in found
    assert "epoch: chosen by cider_regex of the validation images" in capsys.readouterr().out


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
    found = performed(specification)
    assert 0 <= found["accuracy"] <= 100
    assert found["majority"] == pytest.approx(100 / 3)


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


ANSWERED = {  # what is answered to the first question, words to add -> what is said
    ("red", "data.answer_list=none.json"): r"cannot read none\.json \(No such file",
    ("red", "data.least=1000"): r"no answer is left to rank: .*; set data\.answer_list=FILE .* or data\.least=1$",
    (" ".join(["red"] * 46), ""): "",  # with [CLS] and [SEP] the 48 positions of the model
    (" ".join(["red"] * 47), ""): r"the answer 'red red .*\.\.\. has 49 tokens, the model reads 48 at most",
}


@pytest.mark.parametrize(("answer", "word"), ANSWERED)
def test_answers_are_looked_at_before_anything_is_computed(own, tmp_path, answer, word) -> None:
    """A list that is not there ended a run once its first epoch was over, a long answer its first step."""
    root = own_folder.write_as(tmp_path / "mine", "questions", "salesforce", 30)
    first, *others = json.loads((root / "train.json").read_text())
    (root / "train.json").write_text(json.dumps([first | {"answer": [answer]}, *others]))
    specification = own("xvlm_vqa", root, "salesforce", *filter(None, [word]))
    objects, config = ObjectCache(), specification.config
    says = ANSWERED[answer, word]
    with pytest.raises(ValueError, match=says) if says else nullcontext():
        inspect(objects.model(config), objects.data(config), config)


class Break(Callback):
    """Ends a run as a kill would, in its second epoch."""

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        if trainer.current_epoch:
            raise KeyboardInterrupt


def test_a_run_does_not_go_on_with_data_that_have_changed(own, tmp_path, capsys) -> None:
    root = own_folder.write_as(tmp_path / "mine", "classes", "imagefolder", 60)
    specification = own("dino_cls", root, "imagefolder", "pruner=omp", "sparsity=0.5", "recipe.epochs=2")
    with pytest.raises(KeyboardInterrupt):
        run(specification, Helpers(watchers=[Break()]))
    [*_, last] = sorted((root / "train/circle").iterdir())
    last.rename(tmp_path / last.name)
    with pytest.raises(UserError, match=r"was interrupted, and its data have changed since: put back .* force=true$"):
        run(specification, Helpers())
    (tmp_path / last.name).rename(last)
    run(specification, Helpers())
    assert "it goes on from its last checkpoint" in capsys.readouterr().out
    assert not list(specification.folder.glob("data.hash"))
    run(specification, Helpers())
    assert "has changed since" not in capsys.readouterr().out
    last.unlink()
    run(specification, Helpers())
    assert f"but {root} has changed since: see force=true" in " ".join(capsys.readouterr().out.split())


def test_a_run_does_not_go_on_with_images_that_have_changed(own, tmp_path, capsys) -> None:
    """Of a list that stays as it is: sizes tell other pixels, times that a file was at least written."""
    root = own_folder.write_as(tmp_path / "mine", "captions", "salesforce", 60)
    specification = own("xvlm_itr", root, "salesforce", "pruner=omp", "recipe.epochs=2", "data.max_unknown=1")
    with pytest.raises(KeyboardInterrupt):
        run(specification, Helpers(watchers=[Break()]))
    image = root / "images" / json.loads((root / "train.json").read_text())[0]["image"]
    before = image.read_bytes(), image.stat()
    image.write_bytes(before[0] + b"\n")
    with pytest.raises(UserError, match=r"its images have changed since: put back the files \(their sizes differ\)"):
        run(specification, Helpers())
    image.write_bytes(before[0])
    os.utime(image, ns=(before[1].st_atime_ns, before[1].st_mtime_ns + 1))
    with pytest.raises(KeyboardInterrupt):
        run(specification, Helpers(watchers=[Break()]))
    assert "its image files were written anew since it was interrupted" in " ".join(capsys.readouterr().out.split())
    run(specification, Helpers())
    shown = " ".join(capsys.readouterr().out.split())
    assert "it goes on from its last checkpoint" in shown
    assert "written anew" not in shown  # it is said once


@pytest.mark.parametrize(("exp", "said"), [("xvlm_itr", True), ("xvlm_ic", False)])
def test_captions_of_several_images_are_said_where_they_bound_a_recall(typed, tmp_path, caplog, exp, said) -> None:
    root = own_folder.write_as(tmp_path / "mine", "captions", "salesforce", 30)
    listed = json.loads((root / "test.json").read_text())
    (root / "test.json").write_text(
        json.dumps([r | {"caption": ["a red circle", f"a {n}"]} for n, r in enumerate(listed)])
    )
    words = [f"+exp={exp}", "data=own", f"data.root={root}", "data.format=salesforce"]
    construct(typed(*words).config["data"], "data")
    line = (
        "test: 1 of 4 captions are of several images, e.g. 'a red circle': in retrieval only the image they stand with"
    )
    assert (line in caplog.text) == said


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_one_image_that_is_not_there_is_named_before_anything_is_computed(own, tmp_path, split) -> None:
    """Of many: the test split was opened after hours of training."""
    root = own_folder.write_as(tmp_path / "mine", "captions", "salesforce", 100)
    lost = json.loads((root / f"{split}.json").read_text())[-1]["image"]
    (root / "images" / lost).unlink()

    def looked_at(*words: str) -> None:
        specification = own("xvlm_itr", root, "salesforce", *words)
        objects, config = ObjectCache(), specification.config
        inspect(objects.model(config), objects.data(config), config)

    with pytest.raises(ValueError, match=rf"^the {split} split names images that are not in .*, 1 of \d+: {lost}; f"):
        looked_at()
    if split == "train":
        looked_at("data.max_broken=1")
    else:
        with pytest.raises(ValueError, match=f"^the {split} split"):
            looked_at("data.max_broken=1")
    if split == "val":
        looked_at("recipe.epochs=0")


def test_the_check_reads_the_same_folder(folder, monkeypatch, capsys) -> None:
    from vlp_bench.commands import data

    words = ["check", "+exp=xvlm_itr", "data=own", f"data.root={folder}", "data.format=karpathy", "--all"]
    monkeypatch.setattr(sys, "argv", ["data", *words])
    data.main()
    said = capsys.readouterr().out
    assert "train: 240 records, 480 captions, 240 images, 240 opened, 0 broken" in said
    for kind in ("CMYK", "turned upright by EXIF", "transparent, shown on white", "16-bit, scaled to 8"):
        assert f"6 images are {kind}" in said
    assert "note: 0.8% of 1,935 words are not in the vocabulary ('zyxt')" in said
    assert "of 27 captions are of several images" in said
    monkeypatch.setattr(sys, "argv", ["data", "check", f"{folder}/dataset.json", f"images={folder}/images"])
    data.main()
    said = capsys.readouterr().out
    assert re.findall(r"(\w+): (\d+) records", said) == [("train", "240"), ("val", "30"), ("test", "30")]


def test_files_of_a_set_are_compared(folder, tmp_path, monkeypatch, capsys) -> None:
    from vlp_bench.commands import data

    for split, name in (("train", "0001.png"), ("val", "0002.png")):
        (tmp_path / split).mkdir()
        (tmp_path / split / "1.png").write_bytes((folder / "images" / name).read_bytes())
        own_folder.dumped(tmp_path / f"my_{split}.json", [{"image": f"{split}/1.png", "caption": f"a {split}"}])
    words = ["data", "check", f"{tmp_path}/my_train.json", f"{tmp_path}/my_val.json"]
    monkeypatch.setattr(sys, "argv", words)
    data.main()
    assert "nothing to mend" in capsys.readouterr().out  # equal names, other pixels
    (tmp_path / "val/1.png").write_bytes((folder / "images/0001.png").read_bytes())
    with pytest.raises(SystemExit):
        data.main()
    said = capsys.readouterr().out
    assert f"1 image of {tmp_path}/my_train.json is in {tmp_path}/my_val.json too: train/1.png = val/1.png" in said


@pytest.mark.parametrize("form, names", [("karpathy", ("train", "val", "test")), ("salesforce", ("mine/train.json",))])
def test_data_check_reads_the_annotations_of_a_folder(form, names, tmp_path, monkeypatch):
    from vlp_bench.commands import data
    from vlp_bench.runs.terminal.console import console

    own_folder.write_as(tmp_path / "mine", "captions", form, 30)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vlp-bench data", "check", "mine"])
    with console.capture() as captured:
        data.main()
    said = captured.get()
    assert all(re.search(rf"^{name}: \d+ records", said, re.MULTILINE) for name in names)
    assert "0 broken" in said
    assert "nothing to mend" in said


@pytest.mark.parametrize("form", ["karpathy", "imagefolder"])
def test_the_script_of_odd_folders_runs_as_its_text_says(form, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["own_folder", str(tmp_path / "mine"), form])
    runpy.run_path(own_folder.__file__, run_name="__main__")
    assert len(list((tmp_path / "mine").rglob("*.png"))) > 250


@pytest.mark.parametrize(
    ("kind", "form", "word", "told"),
    [("captions", "karpathy", "data.template=x",
      "data.template=x: the data of Retrieval don't read it, only those of ZeroShot"),
     ("captions", "karpathy", "data.least=2", "data.least=2: the data of Retrieval don't read it, only those of VQA"),
     ("classes", "imagefolder", "data.train=x.json",
      "data.train=x.json: the data of ZeroShot don't read it, only those of Retrieval, Captioning, VQA, Pairs")],
)  # fmt: skip
def test_a_setting_of_another_task_is_refused(own, folder, kind, form, word, told):
    with pytest.raises(UserError) as raised:
        own(ANY[kind], folder, form, word)
    assert str(raised.value) == f"{told}; leave it out"


def test_every_setting_of_ones_own_data_is_read_by_a_task():
    told = {"says", "classes"}  # by the run's header, and by the task
    assert all(own_datasets.readers(key) for key in {*get_type_hints(own_datasets.Given)} - told)
