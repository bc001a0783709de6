"""What shows that a file is not what was written, one kind after the other, with the message that says so."""

import gzip
import io
import json
import logging
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlp_bench.data.datasets.files import FilesCalibration
from vlp_bench.data.datasets.labelled_files import FilesLabelled
from vlp_bench.data.readers import checked, formats
from vlp_bench.data.readers.calibration_sets import read_set
from vlp_bench.data.readers.classes import Cifar, read_aircraft, read_listed
from vlp_bench.data.readers.coco import read_coco, read_vqa
from vlp_bench.data.readers.genome import read_nlvr2, read_question_answers, read_region_descriptions
from vlp_bench.data.readers.texts import read_texts
from vlp_bench.data.text import make_tokenizer
from vlp_bench.data.transforms.decoding import BrokenImage, decode


def written(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# --- checksums ---


def test_every_byte_of_a_png_is_looked_at(tmp_path: Path) -> None:
    file, picture = tmp_path / "a.png", np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    Image.fromarray(picture).save(file)
    whole = file.read_bytes()
    assert (np.asarray(decode(file)) == picture).all()
    for at in range(8, len(whole) - 12):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(BrokenImage, match=r"a\.png"):
            decode(file)


def test_a_compressed_text_is_read_to_its_checksum(tmp_path: Path) -> None:
    file = tmp_path / "c4-train.00000-of-01024.json.gz"
    content = gzip.compress(
        b"".join(b'{"text": "a %d"}\n' % n for n in range(2000)), 0
    )  # stored, so that it can be read
    file.write_bytes(content)
    assert read_texts(file, 2) == ["a 0", "a 1"]
    file.write_bytes(content.replace(b"a 0", b"a 9", 1))
    with pytest.raises(ValueError, match=r"cannot read .*CRC check failed"):
        read_texts(file, 2)
    file.write_bytes(content[:-2000])
    with pytest.raises(ValueError, match=r"cannot read .*Compressed file ended"):
        read_texts(file, 2)


def test_a_text_with_a_key_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 1 is not"):
        read_texts(written(tmp_path / "c.jsonl", '{"text": "a"}\n{"text": "b", "text": "c"}\n'), 2)


def cifar(folder: Path, names: list[str], rows: int = 2) -> Path:
    """An archive of CIFAR-100's files, those of `names` in their order."""
    pixels = np.random.default_rng(0).integers(256, size=(rows, 3074), dtype=np.uint8)
    pixels[:, 1] = range(rows)
    contents = {"train.bin": pixels.tobytes(), "test.bin": pixels[:1].tobytes(), "fine_label_names.txt": b"x\ny\nz\n"}
    with tarfile.open(folder / "cifar.tar.gz", "w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(f"cifar-100-binary/{name}")
            member.size = len(contents[name])
            archive.addfile(member, io.BytesIO(contents[name]))
    return folder / "cifar.tar.gz"


ALL = ["train.bin", "test.bin", "fine_label_names.txt"]


def test_an_archive_that_stores_a_member_twice_is_refused(tmp_path: Path) -> None:
    assert len(Cifar(cifar(tmp_path, ALL)).labelled("train").records) == 2
    with pytest.raises(ValueError, match=r"the member 'train.bin' stands twice"):
        Cifar(cifar(tmp_path, [*ALL, "train.bin"]))


def test_an_archive_is_read_to_its_checksum(tmp_path: Path) -> None:
    file = cifar(tmp_path, ALL)
    content = bytearray(file.read_bytes())
    content[-5] ^= 1  # the checksum
    file.write_bytes(content)
    with pytest.raises(ValueError, match="CRC check failed"):
        Cifar(file)


def test_pictures_that_stand_twice_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "c"
    with tarfile.open(cifar(tmp_path, ALL)) as archive:
        archive.extractall(folder, filter="data")
    train = next(folder.rglob("train.bin"))
    train.write_bytes(train.read_bytes() * 2)
    with caplog.at_level(logging.WARNING):
        assert len(Cifar(folder).labelled("train").records) == 4
    assert "2 images of train.bin stand in it twice" in caplog.text


# --- identities that two places tell ---


def vqa(folder: Path, image: int) -> Path:
    asked = [{"question_id": n, "image_id": n, "question": "what?"} for n in (1, 2)]
    answers = [{"answer": "a", "answer_id": n} for n in range(1, 11)]
    given = [
        {"question_id": 1, "image_id": 1, "answers": answers},
        {"question_id": 2, "image_id": image, "answers": answers},
    ]
    written(folder / "v2_mscoco_val2014_annotations.json", {"annotations": given})
    return written(
        folder / "v2_OpenEnded_mscoco_val2014_questions.json", {"data_subtype": "val2014", "questions": asked}
    )


def test_answers_about_another_image_are_refused(tmp_path: Path) -> None:
    assert [len(q.answers) for q in read_vqa(vqa(tmp_path, 2))] == [10, 10]
    with pytest.raises(ValueError, match="record 1: answers question 2 about image 1, which is asked of another"):
        read_vqa(vqa(tmp_path, 1))


def test_an_answer_and_a_caption_that_stand_twice_are_refused(tmp_path: Path) -> None:
    file = vqa(tmp_path, 2)
    answers = tmp_path / "v2_mscoco_val2014_annotations.json"
    content = json.loads(answers.read_text())
    content["annotations"][0]["answers"].append(content["annotations"][0]["answers"][3])
    written(answers, content)
    with pytest.raises(ValueError, match="record 0: has two answers with one answer_id"):
        read_vqa(file)
    captions = [{"id": 7, "image_id": 1, "caption": text} for text in ("a dog", "a cat")]
    with pytest.raises(ValueError, match="the annotation id '7' stands twice"):
        read_coco(written(tmp_path / "c.json", {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": captions}))


def test_what_lists_something_of_another_image_is_refused(tmp_path: Path) -> None:
    qas = [{"qa_id": 1, "image_id": 5, "question": "what?", "answer": "a"}]
    with pytest.raises(ValueError, match="is about image 4 and lists one of 'qas' about 5"):
        read_question_answers(written(tmp_path / "q.json", [{"id": 4, "qas": qas}]))
    region = {"region_id": 1, "image_id": 5, "phrase": "a dog", "x": 0, "y": 0, "width": 4, "height": 4}
    with pytest.raises(ValueError, match="is about image 4 and lists one of 'regions' about 5"):
        read_region_descriptions(written(tmp_path / "r.json", [{"id": 4, "regions": [region]}]), lambda key: (9, 9))


# --- what few records lack or have ---


PAIRS = [{"sentence": f"pair {n}", "label": "True", "images": [f"{n}-img0.png", f"{n}-img1.png"]} for n in range(6)]


@pytest.mark.parametrize(
    ("last", "told"),
    [
        (
            {"label": None},
            "1 of 6 records have no 'label', or another kind of value there than the others, which have a text",
        ),
        ({"lable": "True"}, "fewer than half of the 6 records have ['lable']"),
        ({}, ""),
    ],
)
def test_what_few_records_lack_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture, last: dict, told: str) -> None:
    file = written(tmp_path / "p.json", [*PAIRS[:5], PAIRS[5] | last])
    with caplog.at_level(logging.WARNING):
        assert len(formats.pairs(file, tmp_path).records) == 6
    assert told in caplog.text
    assert bool(told) == bool(caplog.text)


def test_what_few_entries_of_records_lack_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    qas = [{"qa_id": n, "question": "what?", "answer": "a"} for n in range(4)]
    file = written(
        tmp_path / "q.json", [{"id": 1, "qas": qas[:2]}, {"id": 2, "qas": [qas[2], qas[3] | {"quee_id": 5}]}]
    )
    with caplog.at_level(logging.WARNING):
        assert len(formats.questions(file, tmp_path, "visual_genome").records) == 4
    assert "fewer than half of the 4 'qas' have ['quee_id']" in caplog.text


def test_another_number_of_answers_than_most_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = [{"question_id": n, "image": f"{n}.jpg", "question": "what?", "answer": ["a"] * 10} for n in range(5)]
    asked[3]["answer"] = ["a"] * 9
    with caplog.at_level(logging.WARNING):
        formats.questions(written(tmp_path / "q.json", asked), tmp_path)
    assert "1 question has another number of answers than most: 3" in caplog.text


def test_regions_that_are_described_twice_alike_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    element = {"caption": "a dog", "bb": [0, 0, 4, 4]}
    content = [{"image": "a.jpg", "width": 9, "height": 9, "elems": [element, element]}]
    with caplog.at_level(logging.WARNING):
        formats.regions(written(tmp_path / "r.json", content), tmp_path)
    assert "1 region is described twice alike: a.jpg: 'a dog'" in caplog.text


# --- lines and tables ---


def test_a_line_is_what_ends_with_a_line_feed(tmp_path: Path) -> None:
    record = {"identifier": "dev-0-0-0", "sentence": "one\u2028two", "label": "True"}
    [found] = read_nlvr2(written(tmp_path / "dev.json", json.dumps(record, ensure_ascii=False) + "\n"))
    assert found.sentence == "one\u2028two"


def test_lines_that_no_text_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds what no text does, in 'a\\x00b'"):
        checked.lines(written(tmp_path / "a.txt", "x\na\0b\n"))


def test_a_variant_that_stands_twice_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "variants.txt", "A\nB\nA\n")
    written(tmp_path / "images_variant_train.txt", "01 A\n02 B\n")
    with pytest.raises(ValueError, match="the variant 'A' stands twice"):
        read_aircraft(tmp_path, "train")


def test_an_image_that_is_no_path_is_named_with_its_line(tmp_path: Path) -> None:
    written(tmp_path / "variants.txt", "A\n")
    with pytest.raises(ValueError, match=r"images_variant_train\.txt, record 1: .*is not a path below"):
        read_aircraft((written(tmp_path / "images_variant_train.txt", "01 A\n../x A\n")).parent, "train")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('a.jpg,train,1\n"b.jpg,train,1\nc.jpg,train,1\n', r"split\.csv, line 3: unexpected end of data"),
        ("a.jpg,train,1\nb.jpg,train\n", "must be a CSV table whose rows have filename,split,class"),
        ("a.jpg,train,1\nb.jpg,'train,1\n", 'has a split "\'train"; known are train, val and test'),
    ],
)
def test_a_broken_row_of_a_table_is_refused(tmp_path: Path, rows: str, message: str) -> None:
    written(tmp_path / "annots/split.csv", "filename,split,class\n" + rows)
    written(tmp_path / "annots/metadata.csv", "idx,class_name\n1,rose\n")
    with pytest.raises(ValueError, match=message):
        read_listed(tmp_path, ("train",))


def test_a_row_that_stands_twice_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(tmp_path / "annots/split.csv", "filename,split,class\na.jpg,train,1\nb.jpg,val,1\nb.jpg,val,1\n")
    written(tmp_path / "annots/metadata.csv", "idx,class_name\n1,rose\n")
    with caplog.at_level(logging.WARNING):
        read_listed(tmp_path, ("train",))
    assert "1 of its 3 rows stand in it twice" in caplog.text


# --- vocabularies and fingerprints ---


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\n".join([*WORDS, "", "x"]), "line 8, is '': one token a line"),
        ("\n".join([*WORDS, "two words"]), "line 8, is 'two words'"),
        ("\n".join([*WORDS, "a\0b"]), "line 8, is 'a\\\\x00b'"),
        ("\n".join(WORDS[1:]), r"vocab\.txt lacks \[PAD\]"),
    ],
)
def test_a_damaged_vocabulary_is_refused_by_its_name_and_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_tokenizer(written(tmp_path / "vocab.txt", content))
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"the vocabulary .*vocab\.txt is no text"):
        make_tokenizer(tmp_path / "vocab.txt")


def test_another_vocabulary_is_another_data_set(tmp_path: Path) -> None:
    captions = written(tmp_path / "c.json", [{"image": "a.jpg", "caption": "a dog"}])

    def marked(words: list[str]) -> str:
        vocab = written(tmp_path / "vocab.txt", "\n".join(words))
        return FilesCalibration(general=str(captions), vocab=str(vocab)).fingerprint("general")

    assert marked(WORDS) == marked(WORDS) != marked([*WORDS[:5], "dog", "a"])


def test_classes_that_are_called_otherwise_are_another_data_set(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        written(tmp_path / split / "n01" / "a.jpg", "")

    def marked(name: str) -> str:
        names = written(tmp_path / "names.txt", f"n01 {name}\n")
        return FilesLabelled(root=str(tmp_path), format="imagefolder", names=str(names)).fingerprint("train")

    assert marked("tench") == marked("tench") != marked("tent")


# --- calibration sets ---


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([{"text": "one"}, {"text": "two"}, {"text": "one"}], "1 of 3 records stand in it twice, the first is 'one'"),
        ([{"messages": [{"role": "user", "content": "hi"}] * 2}], "1 of 1 chats say the same twice in a row"),
        ([{"text": "one"}, {"text": "two", "x": 1}, {"text": "three"}], "fewer than half of the 3 records have ['x']"),
    ],
)
def test_what_stands_twice_in_a_calibration_set_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lines: list[dict], told: str
) -> None:
    file = written(tmp_path / "set.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    with caplog.at_level(logging.WARNING):
        assert len(read_set(file).records) == len(lines)
    assert told in caplog.text
