"""The embedded world is written in every format and read back; typed-out examples of each; wrong choices are named."""

import json
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlp_bench.data.datasets.files import FilesQuestions, FilesRetrieval
from vlp_bench.data.datasets.labelled_files import FilesLabelled
from vlp_bench.data.minicopy import Copy, write
from vlp_bench.data.readers import annotations, coco, formats, genome
from vlp_bench.data.readers.classes import Cifar, read_aircraft, read_coop, read_folders, read_listed
from vlp_bench.data.readers.shards import Shards, read_triplets
from vlp_bench.data.readers.texts import read_texts
from vlp_bench.data.records import CaptionedImage, ImagePair, LabelledImage, Question, RegionCaption, RegionImage
from vlp_bench.data.transforms.decoding import Folder


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    return write(tmp_path_factory.mktemp("copy") / "data", images=12)


def sizes(root: Path, folder: str) -> Callable[[str], tuple[int, int]]:
    return Folder(root / folder, formats.FOLDERS).size


def read(root: Path, what: str) -> Any:
    """The records of one file of a copy, by the reader of its format."""
    file, _, split = what.partition("#")
    path = root / file
    for start, reader in READERS.items():
        if file.startswith(start):
            return reader(root, path, split)
    raise AssertionError(f"no reader for {what}")


READERS: dict[str, Callable[[Path, Path, str], Any]] = {
    "finetune/vqa": lambda root, path, split: annotations.read_questions(path),
    "finetune": lambda root, path, split: annotations.read_captions(path),
    "pretrain/cc3m": lambda root, path, split: annotations.read_captions(path),
    "pretrain/vg_regions": lambda root, path, split: annotations.read_regions(path, sizes(root, ".")),
    "pretrain/vg_dense": lambda root, path, split: annotations.read_grouped(path, sizes(root, "images/vg")),
    "karpathy": lambda root, path, split: coco.read_karpathy(path, split),
    "annotations": lambda root, path, split: coco.read_coco(path),
    "nocaps": lambda root, path, split: coco.read_nocaps(path),
    "vqa": lambda root, path, split: coco.read_vqa(path),
    "gqa": lambda root, path, split: genome.read_gqa(path),
    "visual_genome/question": lambda root, path, split: genome.read_question_answers(path),
    "visual_genome/region": lambda root, path, split: genome.read_region_descriptions(path, sizes(root, "images/vg")),
    "nlvr2/nlvr_": lambda root, path, split: annotations.read_pairs(path),
    "nlvr2": lambda root, path, split: genome.read_nlvr2(path),
    "img2dataset/files": lambda root, path, split: read_triplets(path),
    "img2dataset/webdataset": lambda root, path, split: Shards(path).captions(),
    "imagenet": lambda root, path, split: read_folders(path, root / "imagenet/classnames.txt"),
    "oxford_pets": lambda root, path, split: read_coop(path, split),
    "fgvc_aircraft": lambda root, path, split: read_aircraft(path, split),
    "flowers102": lambda root, path, split: read_listed(path, ("train", "val") if split == "train" else (split,)),
    "cifar": lambda root, path, split: Cifar(path).labelled(split),
    "c4": lambda root, path, split: read_texts(path, 12),
    "parquet": lambda root, path, split: formats.captions(path, "", "parquet").records,
}


def test_every_format_reads_back_what_was_written(copy: Copy) -> None:
    assert len(copy.told) > 40
    for what, written in copy.told.items():
        assert read(copy.root, what) == written, what
    used = {start for start in READERS for what in copy.told if what.startswith(start)}
    assert used >= set(READERS) - {"parquet"}


def test_domains_and_data_sets_are_read_too(copy: Copy) -> None:
    for what in copy.told:
        found = read(copy.root, what)
        for name in ("domain", "dataset"):
            if found and hasattr(next(iter(found), None) if isinstance(found, list) else None, name):
                assert [getattr(r, name) for r in found] == [getattr(r, name) for r in copy.told[what]], what


@pytest.mark.parametrize(
    "source, image",
    [
        ("images/coco", "val2014/COCO_val2014_000000000013.jpg"),
        ("images/coco", "wrong/COCO_val2014_000000000013.jpg"),
        ("images/vg", "1001.jpg"),
        ("images/vg", "1.jpg"),
    ],
)
def test_images_are_looked_for_by_name(copy: Copy, source: str, image: str) -> None:
    assert Folder(copy.root / source, formats.FOLDERS).open(image).size == (48, 48)


def test_shards_open_their_images_where_they_lie(copy: Copy) -> None:
    shards, folder = Shards(copy.root / "img2dataset/webdataset"), Folder(copy.root / "img2dataset/files")
    for number in (0, 11):
        from_tar = shards.open(f"00000.tar/{number:09d}.jpg")
        assert np.array_equal(from_tar, folder.open(f"00000/{number:09d}.jpg"))
    with pytest.raises(ValueError, match=r"there is no image 00000\.tar/nothing\.jpg"):
        shards.open("00000.tar/nothing.jpg")


def test_cifar_gives_its_pixels(copy: Copy) -> None:
    for name in ("cifar-10-batches-bin", "cifar-100-binary"):
        cifar = Cifar(copy.root / name)
        labels = [r.label for r in cifar.labelled("train").records]
        assert labels == [i % 6 for i in range(12)]
        raw = np.fromfile(copy.root / "cifar-100-binary/train.bin", np.uint8).reshape(12, -1)[7, 2:]
        assert np.array_equal(np.asarray(cifar.open("train/7")).transpose(2, 0, 1).ravel(), raw)
        with pytest.raises(ValueError, match="no image 'train/12'"):
            cifar.open("train/12")


def test_an_archived_cifar_is_read_without_unpacking(copy: Copy) -> None:
    archived, unpacked = (Cifar(copy.root / n) for n in ("cifar-10-binary.tar.gz", "cifar-10-batches-bin"))
    assert archived.labelled("test") == unpacked.labelled("test")


def test_cifars_pickles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x02}q\x01.")
    with pytest.raises(ValueError, match=r"never read: take cifar-10-binary\.tar\.gz"):
        Cifar(tmp_path)


def test_a_member_that_climbs_out_of_its_shard_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("../../etc/passwd.jpg"))
    with pytest.raises(ValueError, match=r"cannot read .*0\.tar.*not a path below"):
        Shards(tmp_path).captions()


# --- typed-out examples, as the data sets' own files look ---


def put(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_karpathys_file(tmp_path: Path) -> None:
    def image(split: str, number: int, **more: object) -> dict:
        sentence = {"tokens": ["a", "man"], "raw": "A man with a red helmet. ", "imgid": 0, "sentid": 770337}
        return {"filename": f"{number}.jpg", "imgid": number, "split": split, "sentences": [sentence], **more}

    images = [
        image("restval", 0, filepath="val2014", cocoid=391895),
        image("train", 1, filepath="train2014", cocoid=5),
        image("test", 2),
    ]
    path = put(tmp_path / "dataset_coco.json", {"images": images, "dataset": "coco"})
    man = ("A man with a red helmet. ",)
    assert coco.read_karpathy(path, "train") == [
        CaptionedImage("val2014/0.jpg", man, "391895"),
        CaptionedImage("train2014/1.jpg", man, "5"),
    ]
    assert coco.read_karpathy(path, "test") == [CaptionedImage("2.jpg", man, "2")]
    with pytest.raises(ValueError, match=r"no image of the split 'val' \(there are 1 of 'restval', 1 of 'train', 1 of"):
        coco.read_karpathy(path, "val")


@pytest.mark.parametrize(
    "more, says",
    [({"split": "validation"}, "got 'validation'"), ({}, r"got None; its keys are \['filename', 'imgid', 'sentences'"),
     ({"split": "Test"}, "got 'Test'")],
)  # fmt: skip
def test_an_image_of_a_split_that_is_none_is_named(tmp_path: Path, more: dict, says: str) -> None:
    """It was in none of the three splits, and nothing said so."""
    image = {"filename": "1.jpg", "imgid": 1, "sentences": [{"raw": "a man"}]}
    path = put(tmp_path / "dataset.json", {"images": [image | {"split": "test"}, image | more]})
    with pytest.raises(ValueError, match=rf"json, record 1: needs 'split', one of train, restval, val, test, {says}"):
        coco.read_karpathy(path, "test")


def test_coco_captions(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 391895, "file_name": "COCO_val2014_000000391895.jpg"}, {"id": 7, "file_name": "7.jpg"}],
        "annotations": [
            {"image_id": 7, "caption": "A dog.", "id": 1},
            {"image_id": 391895, "caption": "A man.", "id": 2},
        ],
    }
    assert coco.read_coco(put(tmp_path / "captions.json", content)) == [
        CaptionedImage("val2014/COCO_val2014_000000391895.jpg", ("A man.",), "391895"),
        CaptionedImage("7.jpg", ("A dog.",), "7"),
    ]


def test_vqa_questions_and_answers(tmp_path: Path) -> None:
    asked = {"image_id": 458752, "question": "What is this photo taken looking through?", "question_id": 458752000}
    answered = {
        "question_type": "what is this",
        "multiple_choice_answer": "net",
        "answers": [{"answer": a, "answer_confidence": "maybe", "answer_id": i} for i, a in enumerate(["net", "mesh"])],
        "image_id": 458752,
        "answer_type": "other",
        "question_id": 458752000,
    }
    path = put(
        tmp_path / "v2_OpenEnded_mscoco_train2014_questions.json",
        {"data_subtype": "train2014", "questions": [asked]},
    )
    question = Question(
        "train2014/COCO_train2014_000000458752.jpg", "What is this photo taken looking through?", (), 458752000
    )
    assert coco.read_vqa(path) == [question]
    put(tmp_path / "v2_mscoco_train2014_annotations.json", {"annotations": [answered]})
    (found,) = coco.read_vqa(path)
    assert (found.answers, found.question_type, found.answer_type) == (("net", "mesh"), "what is this", "other")
    put(tmp_path / "v2_mscoco_train2014_annotations.json", {"annotations": [answered | {"question_id": 1}]})
    with pytest.raises(ValueError, match=r"has no answers to 1 of .*questions\.json: 458752000"):
        coco.read_vqa(path)


def test_the_test_questions_of_vqa_show_the_images_of_test2015(tmp_path: Path) -> None:
    asked = {"image_id": 1, "question": "Is it?", "question_id": 10}
    path = put(tmp_path / "q.json", {"data_subtype": "test-dev2015", "questions": [asked]})
    assert coco.read_vqa(path)[0].image == "test2015/COCO_test2015_000000000001.jpg"


def test_visual_genomes_regions_and_questions(tmp_path: Path) -> None:
    region = {"region_id": 1382, "image_id": 1, "x": 421, "y": 57, "width": 82, "height": 139}
    regions = [
        region | {"phrase": "the clock is green in colour"},
        region | {"phrase": " ."},
        region | {"phrase": "outside", "x": 790},
    ]
    path = put(tmp_path / "region_descriptions.json", [{"id": 1, "regions": regions}])
    clock = (RegionCaption("the clock is green in colour", (421.0, 57.0, 82.0, 139.0)),)
    assert genome.read_region_descriptions(path, lambda key: (800, 600)) == [RegionImage("1.jpg", clock, (800, 600))]
    url = "https://host/VG_100K_2/1.jpg"
    put(tmp_path / "image_data.json", [{"image_id": 1, "url": url, "width": 800, "height": 600}])
    (found,) = genome.read_region_descriptions(path, lambda key: (0, 0))
    assert (found.image, found.size) == ("VG_100K_2/1.jpg", (800, 600))
    qa = {"qa_id": 986768, "image_id": 1, "question": "What color is the clock?", "answer": "Green."}
    asked = put(tmp_path / "question_answers.json", [{"id": 1, "qas": [qa]}])
    assert genome.read_question_answers(asked) == [
        Question("VG_100K_2/1.jpg", "What color is the clock?", ("Green",), 986768, dataset="vg")
    ]


def test_gqas_ids_keep_their_zeros(tmp_path: Path) -> None:
    question = {"imageId": "n288870", "question": "Is it overcast?", "answer": "no", "types": {"semantic": "attr"}}
    path = put(tmp_path / "testdev.json", {"05201640": question})
    assert genome.read_gqa(path) == [Question("n288870.jpg", "Is it overcast?", ("no",), "05201640", "attr", "", "gqa")]


def test_nlvr2s_official_list(tmp_path: Path) -> None:
    lines = [
        {"identifier": "dev-850-0-0", "sentence": "There is a dog.", "label": "True"},
        {"identifier": "train-10171-0-2", "sentence": "There is none.", "label": "False", "directory": "26"},
        {"identifier": "test1-0-1-0", "sentence": "Who knows."},
    ]
    path = put(tmp_path / "dev.json", "\n".join(map(json.dumps, lines)))
    assert genome.read_nlvr2(path) == [
        ImagePair(
            ("dev/dev-850-0-img0.png", "dev/dev-850-0-img1.png"), "There is a dog.", True, "dev-850-0-0", "dev-850--0"
        ),
        ImagePair(
            ("train/26/train-10171-0-img0.png", "train/26/train-10171-0-img1.png"),
            "There is none.",
            False,
            "train-10171-0-2",
            "train-10171--2",
        ),
        ImagePair(
            ("test1/test1-0-1-img0.png", "test1/test1-0-1-img1.png"), "Who knows.", None, "test1-0-1-0", "test1-0--0"
        ),
    ]


def test_visual_genomes_questions_in_the_released_list_lie_flat(tmp_path: Path) -> None:
    record = {"question_id": 986769, "question": "What color?", "image": "VG_100K_2/1.jpg", "dataset": "vg"}
    (found,) = annotations.read_questions(put(tmp_path / "vg_qa.json", [record | {"answer": "Green"}]))
    assert found == Question("1.jpg", "What color?", ("Green",), 986769, dataset="vg")


def test_coops_split(tmp_path: Path) -> None:
    content = {
        "train": [["b/1.jpg", 1, "beagle"], ["a/2.jpg", 0, "abyssinian"]],
        "val": [["a/3.jpg", 0, "abyssinian"]],
        "test": [["b/4.jpg", 1, "beagle"]],
    }
    found = read_coop(put(tmp_path / "split_zhou_OxfordPets.json", content), "train")
    assert found.names == ("abyssinian", "beagle")
    assert found.records == (LabelledImage("b/1.jpg", 1), LabelledImage("a/2.jpg", 0))
    content["test"][0][2] = "poodle"
    with pytest.raises(ValueError, match="class 1 is called 'beagle' and 'poodle'"):
        read_coop(put(tmp_path / "b.json", content), "train")


# --- the wrong word for the right file ---


@pytest.mark.parametrize(
    "file, form, says",
    [
        ("karpathy/dataset_coco.json", "salesforce", "Karpathy's format: set data.source.format=karpathy"),
        ("karpathy/dataset_coco.json", "coco", "set data.source.format=karpathy"),
        ("annotations/captions_train2014.json", "karpathy", "COCO's caption format: set data.source.format=coco"),
        ("finetune/itr/coco_train.json", "karpathy", "set data.source.format=salesforce"),
        ("img2dataset/webdataset", "salesforce", "set data.source.format=webdataset"),
        ("img2dataset/files", "webdataset", "set data.source.format=files"),
        ("annotations/captions_val2014.json", "nocaps", "set data.source.format=coco"),
    ],
)
def test_a_wrong_format_is_recognised_and_named(copy: Copy, file: str, form: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as error:
        formats.captions(copy.root / file, copy.root / "images/coco", form, option="data.source.format")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "read, file, form, says",
    [
        (formats.questions, "vqa/v2_OpenEnded_mscoco_val2014_questions.json", "salesforce", "set format=vqav2"),
        (formats.questions, "gqa/testdev_balanced_questions.json", "vqav2", "set format=gqa"),
        (formats.questions, "finetune/vqa/vqa_val.json", "visual_genome", "set format=salesforce"),
        (formats.regions, "visual_genome/region_descriptions.json", "grouped", "set format=visual_genome"),
        (formats.regions, "pretrain/vg_dense_gby_image.json", "salesforce", "set format=grouped"),
        (formats.pairs, "nlvr2/dev.json", "salesforce", "set format=nlvr2"),
        (formats.pairs, "nlvr2/nlvr_dev.json", "nlvr2", "set format=salesforce"),
    ],
)
def test_other_wrong_formats_are_named_too(copy: Copy, read: Any, file: str, form: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read(copy.root / file, copy.root / "images", form)


def test_an_unknown_format_lists_the_known(copy: Copy) -> None:
    with pytest.raises(ValueError, match=r"format=cocoa: there is no such format here; allowed: salesforce, karpathy"):
        formats.captions(copy.root, copy.root, "cocoa")


def test_a_broken_file_of_the_right_format_is_not_blamed_on_the_format(tmp_path: Path) -> None:
    path = put(tmp_path / "a.json", [{"image": "a.jpg", "caption": "a"}, {"image": "b.jpg"}])
    with pytest.raises(ValueError, match="record 1: needs 'caption'") as error:
        formats.captions(path, tmp_path)
    assert "looks like" not in str(error.value)


# --- data sets of files ---


def common(root: Path) -> dict[str, str]:
    return {
        "general": str(root / "img2dataset/webdataset"),
        "general_format": "webdataset",
        "regions": str(root / "visual_genome/region_descriptions.json"),
        "regions_images": str(root / "images/vg"),
        "regions_format": "visual_genome",
        "vocab": str(root / "bert-base-uncased/vocab.txt"),
    }


def test_retrieval_from_karpathys_file_alone(copy: Copy) -> None:
    file = str(copy.root / "karpathy/dataset_coco.json")
    images = str(copy.root / "images/coco")
    source = FilesRetrieval(train=file, val=file, test=file, images=images, format="karpathy", **common(copy.root))  # pyright: ignore[reportArgumentType]
    assert [len(source.captions(s).records) for s in ("train", "val", "test")] == [12, 3, 3]
    for part in (source.captions("test"), source.general(), source.regions()):
        assert part.images.open(part.records[0].image).size == (48, 48)
    assert source.captions("train") is source.captions("train")


def test_questions_of_two_files_make_one_split(copy: Copy) -> None:
    root = copy.root / "finetune/vqa"
    source = FilesQuestions(
        train=[str(root / "vqa_train.json"), str(root / "vg_qa.json")],
        val=str(root / "vqa_val.json"),
        images=[str(copy.root / "images/coco"), str(copy.root / "images/vg")],
        **common(copy.root),
    )
    split = source.questions("train")
    assert [q.dataset for q in split.records] == ["vqa"] * 12 + ["vg"] * 12
    assert {split.images.open(q.image).size for q in split.records} == {(48, 48)}
    assert source.fingerprint("train") != source.fingerprint("val")


@pytest.mark.parametrize(
    "arguments",
    [
        {
            "root": "imagenet",
            "format": "imagefolder",
            "names": "imagenet/annots/metadata.csv",
            "splits": {"test": "val"},
        },
        {"root": "oxford_pets", "format": "coop", "annotations": "oxford_pets/split_zhou_OxfordPets.json"},
        {"root": "fgvc_aircraft", "format": "aircraft"},
        {"root": "flowers102", "format": "listed", "splits": {"train": "train+val", "val": "test"}},
        {"root": "cifar-10-batches-bin", "format": "cifar", "splits": {"val": "test"}},
    ],
)
def test_labelled_files(copy: Copy, arguments: dict[str, Any]) -> None:
    placed = {k: str(copy.root / v) if k in ("root", "names", "annotations") else v for k, v in arguments.items()}
    if arguments["format"] == "coop":
        placed["images"] = str(copy.root / "oxford_pets/images")
    source = FilesLabelled(**placed)
    assert tuple(source.classes) == ("circle", "square", "triangle", "diamond", "cross", "ring")
    for name in ("train", "val", "test", "calibration"):
        split = source.labelled(name)
        assert {r.label for r in split.records} <= set(range(6))
        assert split.images.open(split.records[-1].image).mode == "RGB"


def test_a_table_opens_its_images(copy: Copy) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra 'parquet'")
    split = formats.captions(copy.root / "parquet", "", "parquet", "train")
    assert [split.images.open(r.image).size for r in split.records] == [(48, 48)] * len(split.records)
    with pytest.raises(ValueError, match=r"there is no image train.*parquet/99"):
        split.images.open("train-00000-of-00001.parquet/99")


def test_a_table_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "train-0.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"needs pyarrow: pip install 'vlp_bench\[parquet\]'"):
        formats.captions(tmp_path, "", "parquet", "train")
