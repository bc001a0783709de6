"""Recall at k of a retrieval gallery: the share of queries with a right answer among the first k, in percent.

This is the hit rate of the papers' evaluation (X-VLM, BLIP, MULTIFLOW), not the textbook recall, which would divide by
the number of right answers. A tie counts against the model: a right answer stands behind every wrong one of the same
score, so a model that gives every pair the same score reaches 0 %, not 100 %.
"""

import torch
from torch import Tensor

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


def recall(found: Tensor, k: int) -> float:
    """Percent of the ranks (queries,) that are below k."""
    return 100.0 * float((found < k).double().mean())


def retrieval_metrics(txt_ranks: Tensor, img_ranks: Tensor) -> dict[str, float]:
    """Recall at 1, 5 and 10 both ways, their means, and the mean of the two means, all in percent.

    Args:
        txt_ranks: (images,) ranks of text retrieval: an image asks for its texts.
        img_ranks: (texts,) ranks of image retrieval: a text asks for its image.

    Raises:
        ValueError: there is no query.
    """
    metrics: dict[str, float] = {}
    for name, found in (("txt", txt_ranks), ("img", img_ranks)):
        if not len(found):
            raise ValueError(f"recall needs at least one query, got an empty gallery ({name})")
        metrics |= {f"{name}_r{k}": recall(found, k) for k in CUTS}
        metrics[f"{name}_r_mean"] = sum(metrics[f"{name}_r{k}"] for k in CUTS) / len(CUTS)
    metrics["r_mean"] = (metrics["txt_r_mean"] + metrics["img_r_mean"]) / 2
    return metrics


def shortlist_ranks(
    txt_scores: Tensor, txt_candidates: Tensor, img_scores: Tensor, img_candidates: Tensor, text_image: Tensor
) -> tuple[Tensor, Tensor]:
    """Ranks (m,) of text retrieval and (t,) of image retrieval in a shortlist; m images, t texts, k candidates a query.

    Args:
        txt_scores: (m, k) scores of the texts `txt_candidates` (m, k) for each image.
        txt_candidates: (m, k) int64, columns of the gallery's texts.
        img_scores: (t, k) scores of the images `img_candidates` (t, k) for each text.
        img_candidates: (t, k) int64, rows of the gallery's images.
        text_image: (t,) int64, the image each text describes.
    """
    rows = torch.arange(len(txt_scores), device=text_image.device)
    txt = ranks(txt_scores, text_image[txt_candidates] == rows[:, None])
    return txt, ranks(img_scores, img_candidates == text_image[:, None])


def shortlist_metrics(
    txt_scores: Tensor, txt_candidates: Tensor, img_scores: Tensor, img_candidates: Tensor, text_image: Tensor
) -> dict[str, float]:
    """The metrics of a shortlist of the gallery; arguments as in `shortlist_ranks`."""
    return retrieval_metrics(*shortlist_ranks(txt_scores, txt_candidates, img_scores, img_candidates, text_image))


def gallery_metrics(scores: Tensor, text_image: Tensor) -> dict[str, float]:
    """The metrics of a full score matrix (images, texts), the same for both directions; text_image as above."""
    relevant = text_image[None, :] == torch.arange(len(scores), device=scores.device)[:, None]
    return retrieval_metrics(ranks(scores, relevant), ranks(scores.T, relevant.T))
