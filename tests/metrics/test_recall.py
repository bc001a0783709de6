"""Recall by hand, against a loop that can be read, and against torchmetrics' hit rate."""

import pytest
import torch
from torch import Tensor
from torchmetrics.retrieval import RetrievalHitRate

from vlp_bench.metrics import GalleryRecall
from vlp_bench.metrics.recall import (
    NEVER,
    certain_recalls,
    gallery_metrics,
    ranks,
    recall,
    retrieval_metrics,
    right_texts,
    shortlist_metrics,
)


def slow_rank(scores: list[float], relevant: list[bool]) -> int:
    """How many wrong ones a reader has to pass before the first right one, ties read last."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], relevant[i]))
    return next(place for place, i in enumerate(order) if relevant[i])


def gallery(images: int, texts: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    text_image = torch.arange(texts) % images
    scores = torch.randn(images, texts, generator=generator)
    scores[text_image, torch.arange(texts)] += 1.5
    return scores, text_image


def test_ranks_by_hand() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0], [1.0, 1.0, 0.0, 2.0]])
    relevant = torch.tensor([[True, False, True, False], [True, False, False, False], [True, False, False, False]])
    assert ranks(scores, relevant).tolist() == [0, 3, 2]


def test_the_best_of_several_right_answers_counts() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.4, 0.3]])
    relevant = torch.tensor([[True, False, False, True, True]])
    assert ranks(scores, relevant).tolist() == [2]


def test_a_constant_score_hits_nothing() -> None:
    text_image = torch.arange(40).repeat_interleave(5)
    metrics = gallery_metrics(torch.zeros(40, 200), text_image)
    assert metrics["r_mean"] == 0.0


def test_right_answers_off_the_shortlist_are_never_found() -> None:
    found = ranks(torch.tensor([[1.0, 2.0], [-torch.inf, 0.0]]), torch.tensor([[False, False], [True, False]]))
    assert found.tolist() == [NEVER, NEVER]
    assert recall(found, 10) == 0.0


def test_recall_counts_ranks_below_k() -> None:
    found = torch.tensor([0, 1, 4, 5, 9, 10, 11, NEVER])
    metrics = retrieval_metrics(found, found)
    assert [metrics[f"txt_r{k}"] for k in (1, 5, 10)] == [12.5, 37.5, 62.5]
    assert metrics["txt_r_mean"] == metrics["img_r_mean"] == metrics["r_mean"] == 37.5


def test_names_are_those_of_the_published_table() -> None:
    names = {f"{way}_{what}" for way in ("txt", "img") for what in ("r1", "r5", "r10", "r_mean")} | {"r_mean"}
    assert retrieval_metrics(torch.zeros(1), torch.zeros(1)).keys() == names


def test_a_perfect_gallery_scores_one_hundred() -> None:
    text_image = torch.arange(30).repeat_interleave(5)
    scores = torch.nn.functional.one_hot(text_image, 30).T.float()
    assert set(gallery_metrics(scores, text_image).values()) == {100.0}


@pytest.mark.parametrize("coarse", [False, True])
def test_ranks_agree_with_a_loop(coarse: bool) -> None:
    scores, text_image = gallery(30, 150)
    scores = scores.round() if coarse else scores  # rounding makes hundreds of ties
    relevant = text_image[None] == torch.arange(30)[:, None]
    expected = [slow_rank(s, r) for s, r in zip(scores.tolist(), relevant.tolist(), strict=True)]
    assert ranks(scores, relevant).tolist() == expected


@pytest.mark.parametrize("k", [1, 5, 10])
def test_recall_is_torchmetrics_hit_rate(k: int) -> None:
    scores, text_image = gallery(40, 200)
    relevant = text_image[None] == torch.arange(40)[:, None]
    for way, s, r in (("txt", scores, relevant), ("img", scores.T, relevant.T)):
        queries = torch.arange(len(s))[:, None].expand_as(s)
        reference = RetrievalHitRate(top_k=k)(s.flatten(), r.flatten(), indexes=queries.flatten())
        assert gallery_metrics(scores, text_image)[f"{way}_r{k}"] == pytest.approx(100 * float(reference), abs=1e-4)


def test_a_shortlist_of_everything_is_the_whole_gallery() -> None:
    scores, text_image = gallery(12, 60)
    generator = torch.Generator().manual_seed(1)
    txt = torch.stack([torch.randperm(60, generator=generator) for _ in range(12)])
    img = torch.stack([torch.randperm(12, generator=generator) for _ in range(60)])
    found = shortlist_metrics(scores.gather(1, txt), txt, scores.T.gather(1, img), img, text_image)
    assert found == gallery_metrics(scores, text_image)


@pytest.mark.parametrize("scores", [torch.zeros(2, 3), torch.zeros(4)])
def test_shapes_that_do_not_fit_are_refused(scores: Tensor) -> None:
    with pytest.raises(ValueError, match="matrices of one shape"):
        ranks(scores, torch.zeros(2, 2, dtype=torch.bool))


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 queries"):
        ranks(torch.tensor([[0.0, 1.0], [torch.nan, 1.0]]), torch.eye(2, dtype=torch.bool))


def test_an_empty_gallery_is_refused() -> None:
    with pytest.raises(ValueError, match="empty gallery"):
        retrieval_metrics(torch.zeros(0), torch.zeros(0))


def test_the_metric_is_the_function_however_queries_are_told() -> None:
    scores, text_image = gallery(12, 60)
    right, metric = right_texts(text_image, 12), GalleryRecall()
    for part in (torch.arange(5, 12), torch.arange(6)):  # one query is told twice
        metric.update("txt", part, scores[part], right[part])
    metric.update("img", torch.arange(60), scores.T, right.T)
    expected = {name: float(torch.tensor(value)) for name, value in gallery_metrics(scores, text_image).items()}
    assert {name: float(value) for name, value in metric.compute().items()} == expected
    assert metric.ranks_by_query["txt"].tolist() == ranks(scores, right).tolist()


def test_a_direction_that_nobody_asked_is_refused() -> None:
    metric = GalleryRecall()
    metric.update("txt", torch.arange(2), torch.zeros(2, 2), torch.eye(2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"empty gallery \(img\)"):
        metric.compute()
    with pytest.raises(ValueError, match="got 'text'"):
        metric.update("text", torch.arange(2), torch.zeros(2, 2), torch.eye(2, dtype=torch.bool))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("described", "notes"),
    [
        ([0, 1, 2, 3], {"txt_r5, txt_r10": "4 texts", "img_r5, img_r10": "4 images"}),
        ([0, 0, 1, 1, 1, 1], {"txt_r5, txt_r10": "6 texts", "img_r5, img_r10": "2 images"}),  # four wrong at most
        ([0, 1, 1, 1, 1, 1], {"txt_r10": "6 texts", "img_r5, img_r10": "2 images"}),  # five wrong for the first image
        ([0, 0], {"txt_r1, txt_r5, txt_r10": "2 texts", "img_r1, img_r5, img_r10": "1 image"}),
        (list(range(11)), {}),
    ],
)
def test_recalls_that_measure_nothing_are_noted(described, notes):
    found = certain_recalls(torch.tensor(described))
    assert found == {name: f"100 for any model: there are but {there} to choose from" for name, there in notes.items()}
    count = max(described) + 1
    worst = gallery_metrics(-torch.eye(count)[:, described], torch.tensor(described))  # the right one always last
    assert all((worst[name] == 100) == any(name in told.split(", ") for told in notes)
               for name in worst if "mean" not in name)  # fmt: skip
