"""A retrieval gallery in memory: what was encoded once, who is worth a closer look, and the scores of a closer look.

m images of 1 + n tokens, t texts of at most l tokens, width d, embedding e, k candidates a query.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from vlp_bench.batch import Batch
from vlp_bench.metrics.recall import GalleryRecall, right_on_shortlists, right_texts
from vlp_bench.tasks.optimisation import finite


class Matcher(Protocol):
    """What a gallery asks of a model."""

    def encode_image(self, images: Tensor) -> Tensor:
        """(m, 3, h, w) -> (m, 1 + n, d)."""
        ...

    def encode_text(self, ids: Tensor, atts: Tensor) -> Tensor:
        """(t, l), (t, l) -> (t, l, d)."""
        ...

    def project_image(self, states: Tensor) -> Tensor:
        """(m, 1 + n, d) -> (m, e) of length 1, or (m, q, e): several of an image."""
        ...

    def project_text(self, states: Tensor) -> Tensor:
        """(t, l, d) -> (t, e) of length 1."""
        ...

    def asks(self, states: Tensor, atts: Tensor) -> Tensor:
        """(t, l, d), (t, l) -> (t, l, d), what is kept of each text to match it with images."""
        ...

    def matcher(self, image_states: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """(m, 1 + n, d) -> a function of asking texts (p, l, d), (p, l) and images (p,): how well they go together."""
        ...


BLOCK = 64
"""Images whose keys and values are held at a time: at most 2.7 GB (BLIP at 384 px in fp32)."""

Sum = Callable[[Tensor], Tensor]
"""Adds a tensor up over all processes."""


@dataclass
class Gallery:
    """Encoded images and texts, gathered batch by batch; `store` is the device their token states wait on."""

    store: torch.device | None = None
    images: list[Tensor] = field(default_factory=list)
    texts: list[Tensor] = field(default_factory=list)
    atts: list[Tensor] = field(default_factory=list)
    image_embeds: list[Tensor] = field(default_factory=list)
    text_embeds: list[Tensor] = field(default_factory=list)
    text_image: list[Tensor] = field(default_factory=list)

    def add(self, model: Matcher, batch: Batch) -> None:
        """Encode images with all of their texts (`idx_to_group_img`: which image of the batch a text describes)."""
        ids, atts, described = batch.text_ids, batch.text_atts, batch.idx_to_group_img
        assert ids is not None and atts is not None and described is not None, "a gallery batch has texts"  # noqa: PT018
        first = sum(map(len, self.images))
        image_states = model.encode_image(batch.images)
        text_states = model.encode_text(ids, atts)
        self.image_embeds.append(model.project_image(image_states))
        self.text_embeds.append(model.project_text(text_states))
        self.images.append(image_states.to(self.store))
        self.texts.append(model.asks(text_states, atts).to(self.store))
        self.atts.append(atts)
        self.text_image.append(first + described)

    def whole(self) -> "WholeGallery":
        """Everything added so far, texts padded to the longest; the parts are let go, so that nothing is held twice.

        Raises:
            ValueError: nothing was added.
        """
        if not self.images:
            raise ValueError("the gallery is empty: the split has no image with a caption")
        longest = max(atts.shape[1] for atts in self.atts)
        atts = torch.cat([F.pad(a, (0, longest - a.shape[1])) for a in self.atts])
        texts = torch.cat([F.pad(s, (0, 0, 0, longest - s.shape[1])) for s in self.texts])
        self.texts.clear()
        return WholeGallery(
            _joined(self.images),
            texts,
            atts,
            torch.cat(self.image_embeds),
            torch.cat(self.text_embeds),
            torch.cat(self.text_image),
        )


@dataclass(frozen=True)
class WholeGallery:
    """images (m, 1 + n, d), texts (t, l, d) as `Matcher.asks` has them, atts (t, l), image_embeds (m, e) or (m, q, e),
    text_embeds (t, e), text_image (t,)."""

    images: Tensor
    texts: Tensor
    atts: Tensor
    image_embeds: Tensor
    text_embeds: Tensor
    text_image: Tensor

    def similarity(self) -> Tensor:
        """(m, t) cosine between every image and every text; Diverged if one is not a number.

        Of an image with several embeddings (m, q, e) the nearest counts (BLIP-2).
        """
        cosines = self.image_embeds.float() @ self.text_embeds.float().T
        return finite(cosines if cosines.ndim == 2 else cosines.amax(1))

    def contrastive_recall(self, share: "Share") -> GalleryRecall:
        """Recall by the cosine alone, without a closer look; each process ranks its share of the queries."""
        cosines = self.similarity()
        right = right_texts(self.text_image, len(cosines))
        return share.recall(txt=(cosines, right), img=(cosines.T, right.T))

    def reranked(self, model: Matcher, *, k: int, pairs: int, share: "Share") -> "Reranked":
        """The k nearest by cosine of each query put in order by `model.matcher`.

        A pair that is on the shortlists of both its image and its text is matched once. `k` is cut to the gallery;
        `pairs` are matched at a time.
        """
        sims = self.similarity()
        txt = sims.topk(min(k, sims.shape[1]), dim=1).indices
        img = sims.T.topk(min(k, sims.shape[0]), dim=1).indices
        t = sims.shape[1]
        txt_pairs = torch.arange(len(sims), device=sims.device)[:, None] * t + txt
        img_pairs = img * t + torch.arange(t, device=sims.device)[:, None]
        wanted, where = torch.cat([txt_pairs.flatten(), img_pairs.flatten()]).unique(return_inverse=True)
        scores = self.match(model, wanted // t, wanted % t, pairs=pairs, share=share)[where]
        txt_scores, img_scores = scores[: txt.numel()].view_as(txt), scores[txt.numel() :].view_as(img)
        txt_right, img_right = right_on_shortlists(txt, img, self.text_image)
        recall = share.recall(txt=(txt_scores, txt_right), img=(img_scores, img_right))
        return Reranked(recall, _first(txt_scores, txt), _first(img_scores, img), self.text_image)

    def match(self, model: Matcher, image: Tensor, text: Tensor, *, pairs: int, share: "Share") -> Tensor:
        """Matching scores (p,) float32 of the pairs `image` (p,), `text` (p,); each process does its share of them.

        What the model reads of an image is computed once for all of its texts, for a block of images at a time. Pairs
        go by image, those of an image by length of text; memory is bounded by the block and by `pairs`, not by p.
        Diverged if a score is not a number.
        """
        lengths = self.atts.sum(1)
        by_image = (image * (int(lengths.max()) + 1) + lengths[text]).argsort(stable=True)
        scores = torch.zeros(len(image), device=self.atts.device)
        for first in range(0, len(self.images), BLOCK):
            own = by_image[(image[by_image] >= first) & (image[by_image] < first + BLOCK)]
            chunks = list(share.of(own.split(pairs)))
            if not len(own) or not chunks:
                continue
            score = model.matcher(self.images[first : first + BLOCK].to(self.atts.device))
            for chunk in chunks:
                j = text[chunk]
                longest = int(lengths[j].max())
                texts = self.texts[j.to(self.texts.device)].to(self.atts.device)[:, :longest]
                scores[chunk] = score(texts, self.atts[j, :longest], image[chunk] - first).float()
        return finite(share.sum(scores))


def _joined(parts: list[Tensor]) -> Tensor:
    """One tensor of all; each part is let go when it is in it, so that a large gallery is not held twice."""
    whole = parts[0].new_empty(sum(map(len, parts)), *parts[0].shape[1:])
    at = 0
    while parts:
        part = parts.pop(0)
        whole[at : at + len(part)] = part
        at += len(part)
    return whole


def _first(scores: Tensor, candidates: Tensor) -> Tensor:
    """(queries,) the candidate with the highest score; both arguments (queries, k)."""
    return candidates.gather(1, scores.argmax(1, keepdim=True)).squeeze(1)


@dataclass(frozen=True)
class Reranked:
    """What retrieval did with each example; m images, t texts.

    recall: of all queries. txt_first (m,): the text put first for an image; img_first (t,): the image put first for a
    text. text_image (t,): the image each text describes.
    """

    recall: GalleryRecall
    txt_first: Tensor
    img_first: Tensor
    text_image: Tensor

    def examples(self) -> dict[str, Tensor]:
        """The firsts, and the ranks (`metrics.recall.ranks`) once recall is computed, as stored for each example."""
        by_name = {f"{asked}_rank": ranks for asked, ranks in self.recall.ranks_by_query.items()}
        by_name |= {"txt_first": self.txt_first, "img_first": self.img_first, "text_image": self.text_image}
        return {name: tensor.cpu() for name, tensor in by_name.items()}


@dataclass(frozen=True)
class Share:
    """One process's share of the matching, and how the shares of all become one."""

    rank: int = 0
    world: int = 1
    add: Sum = lambda scores: scores

    def of(self, chunks: tuple[Tensor, ...]) -> Iterator[Tensor]:
        """Every world-th chunk."""
        return iter(chunks[self.rank :: self.world])

    def sum(self, scores: Tensor) -> Tensor:
        """The scores of all processes; places that this one left at 0 are filled."""
        return self.add(scores)

    def recall(self, **rankings: tuple[Tensor, Tensor]) -> GalleryRecall:
        """Recall both ways, told every world-th query: "txt" and "img" -> scores and right answers, (queries, k)."""
        metric = GalleryRecall().to(next(iter(rankings.values()))[0].device)
        for asked, (scores, right) in rankings.items():
            numbers = torch.arange(self.rank, len(scores), self.world, device=scores.device)
            metric.update(asked, numbers, scores[self.rank :: self.world], right[self.rank :: self.world])  # pyright: ignore[reportArgumentType]
        return metric
