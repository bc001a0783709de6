"""Questions in VQAv2's, OK-VQA's, GQA's, Visual Genome's and X-VLM's formats; statements about pairs in NLVR2's."""

from collections.abc import Sequence
from dataclasses import replace

from vlp_bench.data.minicopy.folder import Target
from vlp_bench.data.records import ImagePair, Question
from vlp_bench.data.shapes.phrases import Phrase
from vlp_bench.data.shapes.scenes import Scene, is_true
from vlp_bench.data.shapes.world import key

FIRST = {"train": 1, "val": 100_001, "test": 200_001}
"""The number of the first image of a split."""
SUBTYPES = {"train": "train2014", "val": "val2014", "test": "test2015"}


def vqa(target: Target, sizes: dict[str, int]) -> None:
    """VQAv2's and OK-VQA's official files and the lists made of them, one question an image."""
    for split, n in sizes.items():
        subtype, asked = SUBTYPES[split], []
        for number, question in enumerate(target.world.questions(f"vqa_{split}", n), FIRST[split]):
            image = f"{subtype}/COCO_{subtype}_{number:012d}.jpg"
            target.image(question.image, f"images/coco/{image}")
            asked.append(replace(question, image=image, question_id=1000 * number))
        for name in (f"v2_OpenEnded_mscoco_{subtype}", f"OpenEnded_mscoco_{subtype}"):
            _official(target, name, subtype, split, asked)
        _released(target, split, asked)


def _official(target: Target, name: str, subtype: str, split: str, asked: Sequence[Question]) -> None:
    file = f"vqa/{name}_questions.json"
    questions = [{"image_id": _number(q), "question": q.question, "question_id": q.question_id} for q in asked]
    about = {"info": {}, "task_type": "Open-Ended", "data_type": "mscoco", "license": {}, "data_subtype": subtype}
    target.json(file, about | {"questions": questions})
    if split == "test":
        target.told[file] = [_mute(q) for q in asked]
        return
    annotations = [
        {
            "question_id": q.question_id,
            "image_id": _number(q),
            "question_type": q.question_type,
            "answer_type": q.answer_type,
            "multiple_choice_answer": max(q.answers, key=q.answers.count),
            "answers": [{"answer": a, "answer_id": i} for i, a in enumerate(q.answers, 1)],
        }
        for q in asked
    ]
    target.json(f"vqa/{name.replace('OpenEnded_', '')}_annotations.json", about | {"annotations": annotations})
    target.told[file] = list(asked)


def _number(question: Question) -> int:
    return int(question.question_id) // 1000


def _mute(question: Question) -> Question:
    return Question(question.image, question.question, (), question.question_id)


def _released(target: Target, split: str, asked: Sequence[Question]) -> None:
    file = f"finetune/vqa/vqa_{split}.json"
    records = [
        {"question_id": q.question_id, "question": q.question, "image": q.image, "dataset": "vqa"} for q in asked
    ]
    if split != "test":
        records = [record | {"answer": list(q.answers)} for record, q in zip(records, asked, strict=True)]
    target.json(file, records)
    answers = [() if split == "test" else q.answers for q in asked]
    target.told[file] = [Question(q.image, q.question, a, q.question_id) for q, a in zip(asked, answers, strict=True)]
    if split == "train":
        target.json("finetune/vqa/answer_list.json", sorted({a for q in asked for a in q.answers}))


def gqa(target: Target, n: int) -> None:
    """`gqa/testdev_balanced_questions.json`, with images of their own."""
    content, told = {}, []
    for number, question in enumerate(target.world.questions("vqa_val", n), 1):
        image, identity, answer = f"n{number}.jpg", f"{number:09d}", _majority(question)
        target.image(question.image, f"images/gqa/{image}")
        types = {"semantic": question.question_type, "structural": question.answer_type}
        content[identity] = {"imageId": image[:-4], "question": question.question, "answer": answer, "types": types}
        told.append(
            Question(image, question.question, (answer,), identity, types["semantic"], types["structural"], "gqa")
        )
    target.json("gqa/testdev_balanced_questions.json", content)
    target.told["gqa/testdev_balanced_questions.json"] = told


def _majority(question: Question) -> str:
    return max(question.answers, key=question.answers.count)


def genome_questions(target: Target, n: int) -> None:
    """`visual_genome/question_answers.json` and X-VLM's `vg_qa.json`; numbers follow those of the regions."""
    original, released, told = [], [], []
    for number, question in enumerate(target.world.questions("vqa_train", n), 1001):
        answer, image = _majority(question), f"VG_100K_2/{number}.jpg"
        target.image(question.image, f"images/vg/{image}")
        qa = {"qa_id": 10 * number, "image_id": number, "question": question.question, "answer": f"{answer}."}
        original.append({"id": number, "qas": [qa]})
        fields = {"question": question.question, "question_id": 10 * number, "dataset": "vg"}
        released.append({"image": image, "answer": answer, **fields})
        told.append(Question(image, question.question, (answer,), 10 * number, dataset="vg"))
    target.json("visual_genome/question_answers.json", original)
    target.json("finetune/vqa/vg_qa.json", released)
    target.told["visual_genome/question_answers.json"] = told
    target.told["finetune/vqa/vg_qa.json"] = [replace(q, image=q.image.rpartition("/")[2]) for q in told]


def nlvr2(target: Target, sizes: dict[str, int]) -> None:
    """NLVR2's official lists and BLIP's, each sentence true of its left image in every second record."""
    names = {"train": ("train", "train"), "val": ("dev", "dev"), "test": ("test1", "test")}
    for split, n in sizes.items():
        official, released, told = [], [], []
        for number in range(n):
            (left, phrase), (right, _) = (target.world.captioned(f"ic_{split}", 2 * number + side) for side in (0, 1))
            told.append(_statement(target, names[split][0], number, (left, right), phrase[0]))
            label, record = str(told[-1].label), told[-1]
            place = {"directory": str(number % 3)} if split == "train" else {}
            official.append({"identifier": record.identity, "sentence": record.sentence, "label": label} | place)
            released.append({"sentence": record.sentence, "label": label, "images": list(record.images)})
        file, list_file = f"nlvr2/{names[split][0]}.json", f"nlvr2/nlvr_{names[split][1]}.json"
        target.lines(file, official)
        target.json(list_file, released)
        target.told[file] = told
        target.told[list_file] = [
            replace(r, identity=" ".join(r.images), said=f"{r.said.removesuffix('--0')} {r.sentence}") for r in told
        ]


def _statement(target: Target, folder: str, number: int, scenes: tuple[Scene, Scene], phrase: Phrase) -> ImagePair:
    """Sentence number `number`, about two images that are drawn here."""
    pair = scenes if number % 2 == 0 else scenes[::-1]
    below = f"{folder}/{number % 3}" if folder == "train" else folder
    left, right = (f"{below}/{folder}-{number}-0-img{side}.png" for side in (0, 1))
    for scene, image in zip(pair, (left, right), strict=True):
        target.image(key(scene), f"images/nlvr2/{image}")
    sentence = f"in the left image, {phrase.text}"
    return ImagePair(
        (left, right), sentence, is_true(phrase.form, pair[0]), f"{folder}-{number}-0-0", f"{folder}-{number}--0"
    )
