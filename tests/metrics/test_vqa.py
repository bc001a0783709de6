"""VQA accuracy: the rule worked out by hand."""

import pytest
import torch

from vlp_bench.data.records import Question
from vlp_bench.metrics import VQAAccuracy
from vlp_bench.metrics.vqa import (
    accuracy,
    breakdown,
    exact,
    majority,
    majority_accuracy,
    normalised,
    server_accuracy,
    without_signs,
)


@pytest.mark.parametrize(
    "given, expected",
    [
        ("1,000", "1000"),
        ("t-shirt", "t shirt"),
        ("5.", "5"),
        ("2.5", "2.5"),
        ("u.s.a.", "usa"),
        ("The Dog", "dog"),
        ("None", "0"),
        ("ten", "10"),
        ("dont know", "don't know"),
        ("somebody'd", "somebodyd"),
        ("red, white", "red white"),
    ],
)
def test_answers_are_compared_in_a_normal_form(given, expected):
    assert normalised(given) == expected


def test_a_sign_beside_a_space_takes_its_kind_with_it():
    assert without_signs("hot-dog bun - mustard") == "hotdog bun  mustard"
    assert without_signs("hot-dog bun") == "hot dog bun"


@pytest.mark.parametrize("n, expected", [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0), (10, 1.0)])
def test_three_others_who_agree_are_enough(n, expected):
    """With n of 10: n times min(1, (n - 1) / 3) and 10 - n times min(1, n / 3), over 10."""
    answers = ["yes"] * n + ["no", "maybe"] * 5
    assert accuracy("yes", answers[:10]) == pytest.approx(expected)


def test_answers_that_all_agree_are_compared_to_the_letter():
    assert accuracy("2", ["two"] * 10) == 0.0
    assert accuracy("2", ["two"] * 9 + ["three"]) == 1.0
    assert accuracy("Two", ["two"] * 10, rule="released") == 0.0  # normalised to 2
    assert accuracy("a dog\n", ["a dog"] * 10) == 1.0


def test_the_older_copy_leaves_figures_and_articles_of_people_alone():
    answers = ["the dog"] * 9 + ["cat"]
    assert accuracy("dog", answers) == 1.0
    assert accuracy("dog", answers, rule="released") == 0.0


def test_gqa_asks_for_the_one_answer():
    assert exact("The dog.", ["dog"]) == 1.0
    assert exact("cat", ["dog"]) == 0.0


def test_both_sides_of_an_exact_comparison_are_normalised():
    assert exact("dog", ["The dog."]) == 1.0
    assert exact("2", ["two"]) == 1.0


@pytest.mark.parametrize("rule", ["official", "released"])
@pytest.mark.parametrize("people", [1, 2, 3, 4, 10])
def test_whoever_says_what_all_people_say_is_right(rule, people):
    assert accuracy("red", ["red"] * people, rule=rule) == 1.0
    assert accuracy("blue", ["red"] * people, rule=rule) == 0.0


def test_of_few_people_all_others_must_agree():
    """Leaving out each in turn: of two, 0/1 and 1/1; of three with one who differs, 1/2, 1/2 and 2/2."""
    assert accuracy("red", ["red", "blue"]) == 0.5
    assert accuracy("red", ["red", "red", "blue"]) == pytest.approx(2 / 3)
    assert accuracy("the red.", ["red"]) == 1.0


def test_the_server_s_own_number_of_few_answers_is_there_too():
    assert [server_accuracy("red", ["red"] * people) for people in (1, 2, 3, 4)] == [0, 1 / 3, 2 / 3, 1]


def test_accuracy_is_broken_down_by_both_types():
    found = breakdown([1.0, 0.0, 0.6], ["how many", "is the", "is the"], ["number", "yes/no", ""])
    assert found == pytest.approx(
        {"accuracy": 160 / 3, "asks/how many": 100, "asks/is the": 30, "type/number": 100, "type/yes/no": 0}
    )


def test_the_majority_is_that_of_each_type():
    asked = [("how", ["2"] * 3), ("how", ["1"] * 2), ("is", ["yes", "no"])]
    assert majority(asked) == {"how": "2", "is": "no", "": "2"}


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: accuracy("a", []), "without answers cannot be scored"),
        (lambda: accuracy("a", ["a"], rule="mine"), "official, released, got 'mine'"),
        (lambda: breakdown([], [], []), "at least one question"),
    ],
)
def test_what_cannot_be_scored_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def questions(*answers, kind="what"):
    return [Question(f"{n}.jpg", "?", told, n, kind, "other") for n, told in enumerate(answers)]


def test_the_metric_has_the_numbers_of_the_functions_whatever_order_it_is_told_in():
    asked = questions(("red",) * 10, ("blue",) * 2 + ("red",) * 8, ("green",) * 10)
    metric = VQAAccuracy(asked)
    metric.update(torch.tensor([2, 1]), ["green", "blue"])
    metric.update(torch.tensor([0, 2]), ["red", "green"])  # a sampler repeats 2
    expected = [1.0, accuracy("blue", asked[1].answers), 1.0]
    values = {name: float(value) for name, value in metric.compute().items()}
    mean = float(torch.tensor(100 * sum(expected) / 3))
    assert values == {"accuracy": mean, "asks/what": mean, "type/other": mean}
    assert metric.examples.tolist() == (100 * torch.tensor(expected)).tolist()
    assert metric.predictions() == {0: "red", 1: "blue", 2: "green"}
    assert metric.notes == {}


def test_few_answers_are_said():
    metric = VQAAccuracy(questions(("red",), ("red",) * 10))
    metric.update(torch.tensor([0, 1]), ["red", "red"])
    assert float(metric.compute()["accuracy"]) == 100
    assert metric.notes["answers"].startswith("1 of 2 questions have fewer than four answers")
    exactly = VQAAccuracy(questions(("red",)), score="exact")
    exactly.update(torch.tensor([0]), ["red"])
    exactly.compute()
    assert exactly.notes == {}


def test_a_part_of_a_split_is_not_the_whole():
    metric = VQAAccuracy(questions(("red",), ("red",)))
    metric.update(torch.tensor([1]), ["red"])
    with pytest.raises(ValueError, match="1 of 2 questions have no prediction"):
        metric.compute()
    with pytest.raises(ValueError, match="got 'soft'"):
        VQAAccuracy([], score="soft")


def test_always_saying_the_commonest_answer_by_hand():
    known = questions(("red",) * 10, ("red",) * 10) + questions(("two",) * 10, kind="how many")
    asked = questions(("red",) * 10, ("blue",) * 10) + questions(("two",) * 10, kind="where")
    assert majority_accuracy(known, asked) == pytest.approx(100 / 3)  # a type not known: the commonest of all, red


def test_answers_that_exact_does_not_read_are_said():
    metric = VQAAccuracy([Question("a", "q", ("x", "y"), 1), Question("a", "q", ("x", "x"), 2)], score="exact")
    metric.update(torch.arange(2), ["y", "x"])
    assert metric.compute()["accuracy"] == 50
    assert metric.notes == {"answers": "1 of 2 questions have several answers, of which exact reads the first"}
