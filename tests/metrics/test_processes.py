"""Two processes that share a split, with what a sampler repeats, have the numbers of one process to the last bit."""

import pytest
import torch
from torch.utils.data import DistributedSampler

from tests.support.forked import together
from vlp_bench import processes
from vlp_bench.data.records import CaptionedImage, Question
from vlp_bench.metrics import CaptionMetrics, ClassAccuracy, Consistency, GalleryRecall, VQAAccuracy
from vlp_bench.metrics.caption_scores import Scores

COUNT = 7
GENERATOR = torch.Generator().manual_seed(0)
LOGITS, LABELS = torch.randn(COUNT, 9, generator=GENERATOR), torch.arange(COUNT)
SCORES = torch.randn(COUNT, COUNT, generator=GENERATOR)
WORDS = ["", "rot", "größer", "红色", "two words", "a" * 300, "\ud800"]  # bytes of every length, one that is no UTF-8


class Lengths:
    """Scores a caption by its length."""

    def prepare(self):
        pass

    def names(self, images):
        return ["length"]

    def __call__(self, captions, images):
        assert processes.is_main()
        lengths = [float(len(captions[n])) for n in range(len(images))]
        return Scores({"length": sum(lengths) / 3}, {"length": lengths})


def answers(numbers):
    questions = [
        Question("", "", (word, word, "other", "two"), n, answer_type=f"{n % 2}") for n, word in enumerate(WORDS)
    ]
    metric = VQAAccuracy(questions)
    for number in numbers:
        metric.update(number[None], [WORDS[number] if number % 3 else "other"])
    return metric.compute() | {"texts": "|".join(metric.predictions().values()), "examples": metric.examples}


def captions(numbers):
    images = [CaptionedImage(f"{n}.jpg", ("x",), f"{n}") for n in range(COUNT)]
    metric = CaptionMetrics(images, [Lengths()])
    metric.update(numbers, [WORDS[n] for n in numbers])
    return metric.compute() | {"texts": "|".join(metric.captions.values())}


def classes(numbers):
    metric = ClassAccuracy()
    metric.update(numbers, LOGITS[numbers], LABELS[numbers])
    return metric.compute() | {"predicted": metric.predicted, "right": metric.right}


def sentences(numbers):
    metric = Consistency()
    metric.update(numbers, numbers // 2, LOGITS[numbers, 0] > 0)
    return {"consistency": metric.compute()}


def gallery(numbers):
    metric, right = GalleryRecall(), torch.eye(COUNT, dtype=torch.bool)
    metric.update("txt", numbers, SCORES[numbers], right[numbers])
    metric.update("img", numbers, SCORES.T[numbers], right[numbers])
    return metric.compute() | metric.ranks_by_query


METRICS = {"answers": answers, "captions": captions, "classes": classes, "sentences": sentences, "gallery": gallery}


def everything():
    numbers = torch.tensor(list(DistributedSampler(range(COUNT), processes.size(), processes.rank(), shuffle=False)))
    return {name: measure(numbers) for name, measure in METRICS.items()}


def same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, second[name]), name
        else:
            assert value == second[name], name


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_have_the_numbers_of_one(count, tmp_path):
    alone = everything()
    assert alone["sentences"]["consistency"] > 0
    assert 0 < alone["gallery"]["r_mean"] < 100
    assert alone["answers"]["texts"].count("other") == 3
    for shared in together(count, everything, tmp_path):
        for name in METRICS:
            same(alone[name], shared[name])


def one_has_nothing():
    """The second process has no example at all."""
    numbers = torch.arange(COUNT if processes.is_main() else 0)
    return {name: measure(numbers) for name, measure in METRICS.items() if name != "answers"}


def test_a_process_without_examples_gathers_too(tmp_path):
    alone = one_has_nothing()
    for shared in together(2, one_has_nothing, tmp_path):
        for name in alone:
            same(alone[name], shared[name])


def never_told():
    metric = VQAAccuracy([Question("", "", ("a",), 0)])
    if processes.is_main():
        metric.update(torch.tensor([0]), ["a"])
    return metric.predictions()


def test_a_process_that_never_was_told_anything_gathers_too(tmp_path):
    assert together(2, never_told, tmp_path) == [{0: "a"}, {0: "a"}]
