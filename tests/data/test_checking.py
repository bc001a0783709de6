"""What `data check` finds, on a copy of the embedded world with known faults; and its command line."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlp_bench.commands import data
from vlp_bench.data import checking
from vlp_bench.data.datasets.files import FilesRetrieval
from vlp_bench.data.datasets.sources import ShapesRetrieval
from vlp_bench.data.minicopy import write
from vlp_bench.data.readers import formats
from vlp_bench.data.readers.repeated import listed


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("copy") / "data", images=8).root


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Path:
    for part in ("finetune", "pretrain", "images", "bert-base-uncased"):
        shutil.copytree(pristine / part, tmp_path / part)
    return tmp_path


def source(root: Path) -> FilesRetrieval:
    return FilesRetrieval(
        train=f"{root}/finetune/itr/coco_train.json",
        val=f"{root}/finetune/itr/coco_val.json",
        test=f"{root}/finetune/itr/coco_test.json",
        images=f"{root}/images/coco",
        general=f"{root}/pretrain/cc3m_pretrain.json",
        general_images=f"{root}/images/cc3m",
        regions=f"{root}/pretrain/vg_regions.json",
        regions_images=str(root),
        vocab=f"{root}/bert-base-uncased/vocab.txt",
    )


def reports(root: Path) -> dict[str, checking.Report]:
    found = {}
    for name, read in checking.splits_of(source(root)).items():
        report, split = checking.check(name, read)
        if split is not None:
            checking.look(report, split, checking.chosen(report, None))
        found[name] = report
    return found


def test_a_whole_copy_needs_no_mending(root: Path) -> None:
    found = reports(root)
    assert list(found) == ["train", "val", "test", "general", "regions"]
    assert [r.problems for r in found.values()] == [[]] * 5
    assert checking.leaks(found) == ([], [])
    assert found["train"].counts == {"records": 8, "captions": 40, "images": 8, "opened": 8, "broken": 0}
    assert found["regions"].counts["regions"] >= 8


def test_missing_and_broken_images_are_named(root: Path) -> None:
    (root / "images/coco/train2014/COCO_train2014_000000000002.jpg").unlink()
    (root / "images/cc3m/00000/000000005.jpg").write_bytes(b"\xff\xd8\xff")
    found = reports(root)
    (missing,) = found["train"].problems
    assert missing.startswith("1 image is missing or broken: there is no image")
    assert "COCO_train2014_000000000002.jpg" in missing
    (broken,) = found["general"].problems
    assert "000000005.jpg" in broken
    assert found["val"].problems == []


def test_a_file_that_cannot_be_read_does_not_hide_the_others(root: Path) -> None:
    (root / "finetune/itr/coco_val.json").write_text('[{"image": "a.jpg", "caption": " "}]')
    found = reports(root)
    assert "record 0: needs 'caption'" in found["val"].problems[0]
    assert found["test"].counts["opened"] == 2


def test_boxes_outside_are_noted(root: Path) -> None:
    file = root / "pretrain/vg_regions.json"
    records = json.loads(file.read_text())
    records[0]["elems"].append({"caption": "far", "bb": [40, 40, 20, 20]})
    file.write_text(json.dumps(records))
    (note,) = reports(root)["regions"].notes
    assert "left out 1 region outside the image" in note


def test_captions_given_twice_are_noted(root: Path) -> None:
    file = root / "finetune/itr/coco_test.json"
    records = json.loads(file.read_text())
    records[0]["caption"].append(records[0]["caption"][0])
    file.write_text(json.dumps(records))
    assert "1 caption is given twice to the same image" in reports(root)["test"].notes[0]


def test_leaks_are_found_by_place_and_by_pixels_not_by_name(root: Path) -> None:
    folder = root / "images/coco"
    train = [folder / f"train2014/COCO_train2014_{n:012d}.jpg" for n in (1, 2, 3)]
    test = json.loads((root / "finetune/itr/coco_test.json").read_text())
    test.append({"image": "train2014/COCO_train2014_000000000001.jpg", "caption": ["x"]})
    (folder / "other").mkdir()
    shutil.copy(train[2], folder / "other/COCO_train2014_000000000003.jpg")  # as it is called in training
    test.append({"image": "other/COCO_train2014_000000000003.jpg", "caption": ["x"]})
    shutil.copy(folder / test[0]["image"], folder / "other/COCO_train2014_000000000004.jpg")  # another of that name
    test.append({"image": "other/COCO_train2014_000000000004.jpg", "caption": ["x"]})
    shutil.copy(train[1], folder / "other/renamed.jpg")
    test.append({"image": "other/renamed.jpg", "caption": ["x"]})
    (root / "finetune/itr/coco_test.json").write_text(json.dumps(test))
    ((leak,), notes) = checking.leaks(reports(root))
    assert leak.startswith("3 images of train are in test too")
    assert "COCO_train2014_000000000003.jpg (the same name and pixels)" in leak
    assert "000000000004" not in leak
    assert "renamed.jpg (the same pixels)" in leak
    assert notes == []


def test_one_set_used_twice_is_a_note() -> None:
    both = {name: checking.Report(name, images={"a": "", "b": ""}) for name in ("val", "test")}
    assert checking.leaks(both) == ([], ["val and test show the same 2 images"])


def test_the_embedded_world_can_be_checked() -> None:
    world = ShapesRetrieval(train=4, val=3, test=3, general=3, regions=3)
    report, split = checking.check("train", checking.splits_of(world)["train"])
    assert split is not None
    assert report.counts["captions"] == 20
    assert len(checking.chosen(report, 2)) == 2
    assert checking.chosen(report, 2) == checking.chosen(report, 2)


# --- the command ---


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["data", *map(str, words)])
    try:
        data.main()
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def test_the_command_checks_an_experiment(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["check", "+exp=xvlm_itr", "benchmark=paper", f"paths.data={root}"]
    words.append(f"paths.vocab={root}/bert-base-uncased/vocab.txt")
    assert command(monkeypatch, *words, "--all") == 0
    assert "nothing to mend" in capsys.readouterr().out
    (root / "images/coco/train2014/COCO_train2014_000000000002.jpg").unlink()
    assert command(monkeypatch, *words) == 2
    said = capsys.readouterr().out
    assert "COCO_train2014_000000000002.jpg" in said
    assert "1 to mend" in said
    shutil.rmtree(root / "pretrain")
    assert command(monkeypatch, *words) == 2
    assert "files or folders are not there" in capsys.readouterr().err


@pytest.mark.parametrize(
    "file, images, says",
    [
        ("karpathy/dataset_coco.json", "images/coco", "8 records, 40 captions"),
        ("visual_genome/region_descriptions.json", "images/vg", "regions, 8 images"),
        ("visual_genome/question_answers.json", "images/vg", "8 records, 8 answers"),
        ("nlvr2/dev.json", "images/nlvr2", "2 records, 4 images"),
        ("img2dataset/webdataset", "", "8 records, 8 captions"),
    ],
)
def test_the_command_recognises_files(
    pristine: Path,
    file: str,
    images: str,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(monkeypatch, "check", f"{pristine}/{file}", f"images={pristine}/{images}") == 0
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(
    "file, spoil, says",
    [
        ("finetune/itr/coco_train.json", lambda t: t.replace('"caption": "', '"caption": 7, "x": "', 1), "record 0.*7"),
        ("finetune/itr/coco_val.json", lambda t: t.replace('"image":', '"imag":'), "cannot tell what"),
        ("karpathy/dataset_coco.json", lambda t: t[: len(t) // 2], "is not JSON"),
        ("nlvr2/dev.json", lambda t: t.replace('"label": "', '"label": "not '), "line 1: 'label' must be"),
    ],
)
def test_the_command_says_what_is_wrong_with_a_file(
    pristine: Path,
    tmp_path: Path,
    file: str,
    spoil: Callable[[str], str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoilt = tmp_path / Path(file).name
    spoilt.write_text(spoil((pristine / file).read_text()))
    assert command(monkeypatch, "check", str(spoilt), f"images={pristine}/images") == 2
    said = capsys.readouterr().out
    assert re.search(says, said), said
    assert "'elems'" not in said


@pytest.mark.parametrize(
    "words, says",
    [
        (["chekc"], "write check, mini-copy or docstrings"),
        (["check"], r"takes \+exp=NAME or annotation files"),
        (["check", "a.json", "--sample=0"], "must be a whole number from 1"),
        (["check", "a.json", "sample=3"], "knows images=DIR"),
        (["check", "+exp=xvlm_itr", "format=coco"], "set data.source.format=coco"),
        (["mini-copy"], "takes one folder"),
        (["mini-copy", "{tmp}/new", "images=3"], "at least 8 images"),
        (["mini-copy", "{tmp}"], "is not an empty folder"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "mine").write_text("")
    assert command(monkeypatch, *(word.format(tmp=tmp_path) for word in words)) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert re.search(says, said)


# --- data of one's own ---


def saved(path: Path, image: Image.Image) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path.name


def noise(seed: int, mode: str = "RGB") -> Image.Image:
    channels = len(mode)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, channels), dtype=np.uint8))


def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    code = command(monkeypatch, "check", *map(str, words))
    out = capsys.readouterr()
    return code, out.out + out.err


def test_class_folders_of_equal_names_are_no_leak(tmp_path, monkeypatch, capsys) -> None:
    for n, split in enumerate(("train", "val")):
        for kind in ("cat", "dog"):
            for i in (1, 2):
                saved(
                    tmp_path / split / kind / f"00000000000{i}.png", noise(100 * n + 10 * i + len(kind) + ord(kind[0]))
                )
    code, told = said(monkeypatch, capsys, tmp_path)
    assert code == 0, told
    assert "train: 4 records, 2 classes, 4 images, 4 opened, 0 broken" in told
    shutil.copy(tmp_path / "train/cat/000000000001.png", tmp_path / "val/dog/000000000002.png")
    code, told = said(monkeypatch, capsys, tmp_path)
    assert code == 2
    assert "1 image of train is in val too: cat/000000000001.png = dog/000000000002.png (the same pixels)" in told
    shutil.copy(tmp_path / "train/cat/000000000001.png", tmp_path / "val/cat/000000000001.png")
    assert "(the same name and pixels)" in said(monkeypatch, capsys, tmp_path)[1]


def test_answers_are_read_with_the_questions_beside_them(tmp_path, monkeypatch, capsys) -> None:
    """A folder of VQAv2's two files, or both typed; alone a file of answers is none of questions."""
    Image.new("RGB", (4, 4)).save(tmp_path / "1.png")
    questions, answers = (tmp_path / f"v2_{name}.json" for name in ("OpenEnded_val_questions", "val_annotations"))
    asked = [{"image_id": 1, "image": "1.png", "question_id": 7, "question": "what is it?"}]
    given = [{"image_id": 1, "question_id": 7, "answers": [{"answer": "red"}] * 10}]
    questions.write_text(json.dumps({"questions": asked}))
    answers.write_text(json.dumps({"annotations": given}))
    for words in ([tmp_path], [questions, answers, f"images={tmp_path}"]):
        code, told = said(monkeypatch, capsys, *words)
        assert (code, "1 record, 10 answers" in told, "nothing to mend" in told) == (0, True, True), told
        assert str(answers) not in told
    assert "must be a JSON object with 'questions'" in said(monkeypatch, capsys, answers, f"images={tmp_path}")[1]


def test_equal_names_are_compared_even_where_no_image_was_opened(tmp_path) -> None:
    for split in ("train", "val"):
        for i in range(6):
            saved(tmp_path / split / "cat" / f"{i}.png", noise(i if split == "train" or i == 3 else 50 + i))
    found = {}
    for split in ("train", "val"):
        read = lambda split=split: formats.labelled(tmp_path / split)  # noqa: E731
        found[split], _ = checking.check(split, read)
    assert checking.leaks(found)[0] == [
        "1 image of train is in val too: cat/3.png = cat/3.png (the same name and pixels)"
    ]


def test_every_bad_record_is_told_in_one_go(tmp_path, monkeypatch, capsys) -> None:
    saved(tmp_path / "a.png", noise(0))
    records = [{"image": "a.png", "caption": "a"}, {"image": "a.png"}, {"image": "/a.png", "caption": "b"}, 5]
    (tmp_path / "a.json").write_text(json.dumps(records))
    code, told = said(monkeypatch, capsys, tmp_path / "a.json")
    assert code == 2
    assert "3 records are wrong" in told
    for number in (1, 2, 3):
        assert f"record {number}: " in told
    assert "1 record, 1 caption, 1 image, 1 opened" in told


def test_ten_bad_records_are_named_and_the_rest_counted(tmp_path, monkeypatch, capsys) -> None:
    saved(tmp_path / "a.png", noise(0))
    records = [{"image": "a.png", "caption": "a"}, *({"image": "a.png", "caption": 3} for _ in range(14))]
    (tmp_path / "a.json").write_text(json.dumps(records))
    code, told = said(monkeypatch, capsys, tmp_path / "a.json")
    assert code == 2
    assert "14 records are wrong" in told
    assert all((f"record {number}: " in told) == (number <= 10) for number in range(1, 15))
    assert "; and 4 more" in told


def test_records_that_do_not_go_together_are_all_named(tmp_path, monkeypatch, capsys) -> None:
    """Beside those that are wrong by themselves; and twelve questions are no captions, whatever ids they share."""
    saved(tmp_path / "a.png", noise(0))
    questions = [{"image": "a.png", "question": "what?", "question_id": n // 2, "answer": ["a"]} for n in range(30)]
    (tmp_path / "q.json").write_text(json.dumps([*questions, {"image": "a.png", "question": 3, "question_id": 99}]))
    code, told = said(monkeypatch, capsys, tmp_path / "q.json")
    assert code == 2
    assert "question_id 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 5 more stands twice" in told
    assert "1 record is wrong: " in told
    assert "record 30: needs 'question'" in told
    images = [{"id": n, "file_name": f"{n}.png"} for n in range(3)]
    captions = [{"id": n, "image_id": n, "caption": "a dog"} for n in range(1, 5)]
    (tmp_path / "c.json").write_text(json.dumps({"images": images, "annotations": captions}))
    code, told = said(monkeypatch, capsys, tmp_path / "c.json")
    assert code == 2
    assert "captions are of image_id 3, 4, not among 'images'" in told


def test_what_a_file_of_three_splits_has_wrong_is_said_once(tmp_path, monkeypatch, capsys) -> None:
    saved(tmp_path / "a.png", noise(0))
    rows = [{"filename": "a.png", "imgid": 0, "split": "train", "sentences": [{"raw": "a"}]}, {"filename": "b.png"}]
    (tmp_path / "k.json").write_text(json.dumps({"images": rows}))
    code, told = said(monkeypatch, capsys, tmp_path / "k.json", "format=karpathy")
    assert code == 2
    assert told.count("record 1: needs 'sentences'") == 1
    assert told.count("as above") == 2
    assert "1 to mend" in told


@pytest.mark.parametrize(
    ("what", "found", "line"),
    [
        ("records are wrong", ["a"], "1 record is wrong: a"),
        ("records are wrong", ["a", "b"], "2 records are wrong: a; b"),
        ("images or pairs have two labels", ["a"], "1 image or pair has two labels: a"),
        ("images of class are in glass too", ["a"], "1 image of class is in glass too: a"),
    ],
)
def test_one_is_no_plural(what, found, line) -> None:
    assert listed(what, found) == [line]


def test_the_kinds_of_images_are_counted(tmp_path, monkeypatch, capsys) -> None:
    clear = noise(1, "RGBA")
    clear.putalpha(Image.new("L", clear.size, 7))
    Image.new("CMYK", (16, 16)).save(tmp_path / "d.jpg")
    Image.fromarray(np.full((16, 16), 300, np.uint16)).save(tmp_path / "c.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(4).save(tmp_path / "e.jpg", exif=exif)
    names = [saved(tmp_path / "a.png", noise(0)), saved(tmp_path / "b.png", clear), "c.png", "d.jpg", "e.jpg"]
    records = [{"image": name, "caption": f"picture {name[0]}"} for name in names]
    (tmp_path / "a.json").write_text(json.dumps(records))
    code, told = said(monkeypatch, capsys, tmp_path / "a.json")
    assert code == 0, told
    for kind in ("transparent, shown on white", "16-bit, scaled to 8", "CMYK", "turned upright by EXIF"):
        assert f"1 image is {kind}" in told


def test_words_the_vocabulary_lacks_are_counted(tmp_path, monkeypatch, capsys) -> None:
    saved(tmp_path / "a.png", noise(0))
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghi"]))
    for text, code, word in (("a b c d e f g h i zebra", 0, "note"), ("a b c zebra", 2, "mend")):
        (tmp_path / "a.json").write_text(json.dumps([{"image": "a.png", "caption": text}]))
        found = said(monkeypatch, capsys, tmp_path / "a.json", f"vocab={tmp_path}/vocab.txt")
        assert found[0] == code
        assert (
            f"{word}: {10 if code == 0 else 25}.0% of {len(text.split())} words are not in the vocabulary ('zebra')"
            in found[1]
        )


@pytest.mark.parametrize(
    "records, words, says",
    [
        ([{"img": "a.png", "caption": "a"}], [], "'image' is None; 'img' is there: call it 'image'"),
        ([{"image": "sub/b.png", "caption": "a"}], [], "images=FOLDER is missing: .* names images such as sub/b.png"),
        ([{"image": "b.png", "caption": "a"}], ["images={tmp}"], "there is no image .*b.png"),
    ],
)
def test_what_a_stranger_forgets_is_named(tmp_path, monkeypatch, capsys, records, words, says) -> None:
    (tmp_path / "a.json").write_text(json.dumps(records))
    code, told = said(monkeypatch, capsys, tmp_path / "a.json", *(word.format(tmp=tmp_path) for word in words))
    assert code == 2
    assert re.search(says, told), told
