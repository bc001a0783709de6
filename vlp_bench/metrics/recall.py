"""Recall at k of a retrieval gallery: the share of queries with a right answer among the first k, in percent.

This is the hit rate of the papers' evaluation (X-VLM, BLIP, MULTIFLOW), not the textbook recall, which would divide by
the number of right answers. A tie counts against the model: a right answer stands behind every wrong one of the same
score, so a model that gives every pair the same score reaches 0 %, not 100 %.
"""

from typing import Literal

import torch
from torch import Tensor

from vlp_bench.metrics.example_metric import ExampleMetric
from vlp_bench.spelling import count_of

CUTS = (1, 5, 10)
NEVER = torch.iinfo(torch.int64).max
"""The rank of a query whose right answers are not among its candidates."""


def ranks(scores: Tensor, relevant: Tensor) -> Tensor:
    """Rank of the best right answer of each query, counted from 0.

    Args:
        scores: (queries, candidates); the whole gallery or a shortlist of it. -inf marks an empty place.
        relevant: (queries, candidates) bool, True where the candidate is a right answer.

    Returns:
        (queries,) int64: how many wrong candidates score at least as high as the best right one; NEVER without one.

    Raises:
        ValueError: the shapes differ, or a score is NaN.
    """
    if scores.shape != relevant.shape or scores.ndim != 2:
        raise ValueError(
            f"scores and relevant must be matrices of one shape (queries, candidates), "
            f"got {tuple(scores.shape)} and {tuple(relevant.shape)}"
        )
    if bool(scores.isnan().any()):
        bad = int(scores.isnan().any(1).sum())
        raise ValueError(f"{bad} of {len(scores)} queries have scores that are not a number; are the weights?")
    best = scores.masked_fill(~relevant, -torch.inf).amax(1, keepdim=True)
    ahead = ((scores >= best) & ~relevant).sum(1)
    return ahead.masked_fill(best.squeeze(1) == -torch.inf, NEVER)


def recall(query_ranks: Tensor, k: int) -> float:
    """Percent of the ranks (queries,) that are below k."""
    return 100.0 * float((query_ranks < k).double().mean())


def retrieval_metrics(txt_ranks: Tensor, img_ranks: Tensor) -> dict[str, float]:
    """Recall at 1, 5 and 10 both ways, their means, and the mean of the two means, all in percent.

    Args:
        txt_ranks: (images,) ranks of text retrieval: an image asks for its texts.
        img_ranks: (texts,) ranks of image retrieval: a text asks for its image.

    Raises:
        ValueError: there is no query.
    """
    metrics: dict[str, float] = {}
    for name, query_ranks in (("txt", txt_ranks), ("img", img_ranks)):
        if not len(query_ranks):
            raise ValueError(f"recall needs at least one query, got an empty gallery ({name})")
        metrics |= {f"{name}_r{k}": recall(query_ranks, k) for k in CUTS}
        metrics[f"{name}_r_mean"] = sum(metrics[f"{name}_r{k}"] for k in CUTS) / len(CUTS)
    metrics["r_mean"] = (metrics["txt_r_mean"] + metrics["img_r_mean"]) / 2
    return metrics


def certain_recalls(text_image: Tensor) -> dict[str, str]:
    """Notes on recalls that measure nothing, as no query has as many wrong candidates as the cut; by their names.

    Args:
        text_image: (texts,) int64, the image each text describes; every image has one at least.
    """
    each = text_image.bincount()
    wrong = {"txt": (len(text_image) - int(each.min()), count_of(len(text_image), "text")),
             "img": (len(each) - 1, count_of(len(each), "image"))}  # fmt: skip
    cuts = {name: [f"{name}_r{k}" for k in CUTS if k > most] for name, (most, _) in wrong.items()}
    return {
        ", ".join(cuts[name]): f"100 for any model: there are but {there} to choose from"
        for name, (_, there) in wrong.items()
        if cuts[name]
    }


def right_texts(text_image: Tensor, images: int) -> Tensor:
    """(images, texts) bool: which texts describe which image, of text_image (texts,) int64."""
    return text_image[None, :] == torch.arange(images, device=text_image.device)[:, None]


def right_on_shortlists(txt_candidates: Tensor, img_candidates: Tensor, text_image: Tensor) -> tuple[Tensor, Tensor]:
    """Right answers (m, k) among the texts for each image and (t, k) among the images for each text, bool.

    Args:
        txt_candidates: (m, k) int64, columns of the gallery's texts.
        img_candidates: (t, k) int64, rows of the gallery's images.
        text_image: (t,) int64, the image each text describes.
    """
    rows = torch.arange(len(txt_candidates), device=text_image.device)
    return text_image[txt_candidates] == rows[:, None], img_candidates == text_image[:, None]


def shortlist_metrics(
    txt_scores: Tensor, txt_candidates: Tensor, img_scores: Tensor, img_candidates: Tensor, text_image: Tensor
) -> dict[str, float]:
    """The metrics of a shortlist: (m, k) scores of the texts `txt_candidates` for each image, (t, k) scores of the
    images `img_candidates` for each text; the others as in `right_on_shortlists`."""
    txt_right, img_right = right_on_shortlists(txt_candidates, img_candidates, text_image)
    return retrieval_metrics(ranks(txt_scores, txt_right), ranks(img_scores, img_right))


def gallery_metrics(scores: Tensor, text_image: Tensor) -> dict[str, float]:
    """The metrics of a full score matrix (images, texts), the same for both directions; text_image as above."""
    relevant = right_texts(text_image, len(scores))
    return retrieval_metrics(ranks(scores, relevant), ranks(scores.T, relevant.T))


class GalleryRecall(ExampleMetric):
    """Recall at 1, 5 and 10 of text and of image retrieval, over all processes; each asks the queries it likes.

    torchmetrics' own `RetrievalHitRate` is the same number; it sorts every query, which takes 7 s where this takes
    0.27 s (500 images, 2,500 texts). `ranks_by_query` ("txt" and "img", in the order of the queries) is there after
    `compute`.

    >>> import torch
    >>> from vlp_bench.metrics import GalleryRecall
    >>> metric, scores, relevant = GalleryRecall(), torch.rand(20, 20), torch.eye(20, dtype=torch.bool)
    >>> metric.update("txt", torch.arange(20), scores, relevant)  # images ask for their texts
    >>> metric.update("img", torch.arange(20), scores.T, relevant.T)  # texts ask for their images
    >>> sorted(metric.compute())
    ['img_r1', 'img_r10', 'img_r5', 'img_r_mean', 'r_mean', 'txt_r1', 'txt_r10', 'txt_r5', 'txt_r_mean']
    """

    def __init__(self) -> None:
        super().__init__(ranks=torch.int64)
        self.ranks_by_query: dict[str, Tensor] = {}

    def update(self, asked: Literal["txt", "img"], numbers: Tensor, scores: Tensor, relevant: Tensor) -> None:
        """Queries for texts ("txt") or images ("img") by their numbers (q,); the others as in `ranks`, (q, candidates).

        Candidates may be a shortlist. ValueError for another direction, other shapes or a score that is NaN.
        """
        if asked not in ("txt", "img"):
            raise ValueError(f'a query asks for "txt" or "img", got {asked!r}')
        self.keep(2 * numbers + (asked == "img"), ranks=ranks(scores, relevant))

    def compute(self) -> dict[str, Tensor]:
        """As `retrieval_metrics`, float32. ValueError if nobody asked for texts, or for images."""
        rows = self.rows()
        odd, query_ranks = self.column("numbers")[rows] % 2 == 1, self.column("ranks")[rows]
        self.ranks_by_query = {"txt": query_ranks[~odd], "img": query_ranks[odd]}
        return self.tensors(retrieval_metrics(query_ranks[~odd], query_ranks[odd]))
