"""VQA accuracy: the rule worked out by hand."""

import pytest

from vlp_bench.metrics.vqa import accuracy, breakdown, exact, majority, normalised, without_signs


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
