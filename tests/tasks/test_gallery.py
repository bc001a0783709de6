"""Re-ranking against a loop over single pairs; what is matched once, how it is shared, what bounds it."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from vlp_bench.batch import Batch
from vlp_bench.metrics.recall import gallery_metrics
from vlp_bench.models.xvlm.model import XVLM
from vlp_bench.models.xvlm.towers import XVLMConfig
from vlp_bench.tasks import gallery as galleries
from vlp_bench.tasks.gallery import Gallery, Share, WholeGallery

IMAGES, EACH = 9, 3


@pytest.fixture(scope="module", params=[1, 3])
def model(request: pytest.FixtureRequest) -> XVLM:
    config = XVLMConfig(
        image_size=16, patch_size=8, vision_width=16, vision_layers=1, vision_heads=2, local_attn_depth=1,
        text_width=16, text_layers=4, fusion_layers=request.param, text_heads=2, vocab_size=40, embed_dim=8,
        max_positions=16,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return XVLM(config).eval()


def batches(size: int) -> Iterator[Batch]:
    """The same gallery in batches of `size` images; texts of 2 to 9 tokens, padded to the longest of a batch."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(IMAGES, 3, 16, 16, generator=generator)
    lengths = torch.randint(2, 10, (IMAGES * EACH,), generator=generator)
    ids = torch.randint(1, 40, (IMAGES * EACH, 9), generator=generator)
    atts = (torch.arange(9) < lengths[:, None]).long()
    for at in range(0, IMAGES, size):
        rows = slice(at * EACH, min(at + size, IMAGES) * EACH)
        longest = int(lengths[rows].max())
        n = len(images[at : at + size])
        described = torch.arange(n).repeat_interleave(EACH)
        text_ids = (ids * atts)[rows, :longest]
        yield Batch(images[at : at + size], text_ids, atts[rows, :longest], idx_to_group_img=described)


@pytest.fixture(params=[4, 64])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Images held at a time: fewer than the gallery's, or more."""
    monkeypatch.setattr(galleries, "BLOCK", request.param)
    return request.param


@torch.inference_mode()
def encoded(model: XVLM, size: int = 4, store: torch.device | None = None) -> WholeGallery:
    gallery = Gallery(store)
    for batch in batches(size):
        gallery.add(model, batch)
    return gallery.whole()


@torch.inference_mode()
def reranked(gallery: WholeGallery, model: object, k: int = 99, pairs: int = 8, share: Share | None = None) -> dict:
    return floats(gallery.reranked(model, k=k, pairs=pairs, share=share or Share()).recall.compute())


def floats(values: dict) -> dict[str, float]:
    """As float32, which is what a metric returns."""
    return {name: float(torch.as_tensor(value, dtype=torch.float32)) for name, value in values.items()}


@torch.inference_mode()
def one_by_one(model: XVLM) -> Tensor:
    """(m, t) matching scores, every pair alone and without padding."""
    (whole,) = batches(IMAGES)
    scores = torch.zeros(IMAGES, IMAGES * EACH)
    for j, (ids, atts) in enumerate(zip(whole.text_ids, whole.text_atts, strict=True)):
        text = model.encode_text(ids[None, : atts.sum()], atts[None, : atts.sum()])
        for i in range(IMAGES):
            fused = model.fuse(text, None, model.encode_image(whole.images[i : i + 1]))
            scores[i, j] = model.itm_head(fused[:, 0])[0, 1]
    return scores


def test_scores_of_all_pairs_are_those_of_single_pairs(model: XVLM, block: int) -> None:
    gallery = encoded(model)
    image = torch.arange(IMAGES).repeat_interleave(IMAGES * EACH)
    text = torch.arange(IMAGES * EACH).repeat(IMAGES)
    with torch.inference_mode():
        scores = gallery.match(model, image, text, pairs=10, share=Share())
    torch.testing.assert_close(scores.view(IMAGES, -1), one_by_one(model), atol=1e-5, rtol=1e-4)


def test_re_ranking_everything_is_ranking_by_the_match(model: XVLM) -> None:
    gallery = encoded(model)
    assert gallery.text_image.tolist() == [i for i in range(IMAGES) for _ in range(EACH)]
    assert reranked(gallery, model) == floats(gallery_metrics(one_by_one(model), gallery.text_image))


def test_without_a_closer_look_the_cosine_ranks(model: XVLM) -> None:
    gallery = encoded(model)
    cosine = torch.nn.functional.cosine_similarity(gallery.image_embeds[:, None], gallery.text_embeds[None], dim=-1)
    assert floats(gallery.contrastive_recall(Share()).compute()) == floats(gallery_metrics(cosine, gallery.text_image))


@pytest.mark.parametrize("size, pairs", [(1, 3), (9, 1000), (5, 16)])
def test_batches_do_not_matter(model: XVLM, size: int, pairs: int) -> None:
    assert reranked(encoded(model, size), model, 4, pairs) == reranked(encoded(model, 4), model, 4, 8)


def test_a_gallery_may_wait_elsewhere(model: XVLM) -> None:
    assert reranked(encoded(model, store=torch.device("cpu")), model, 4) == reranked(encoded(model), model, 4)


class Counting:
    """A matcher that knows which pairs it was asked, by the first number of their states."""

    def __init__(self, scores: Tensor) -> None:
        self.scores, self.asked, self.largest, self.block = scores, [], 0, 0

    def matcher(self, images: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        self.block = max(self.block, len(images))

        def score(texts: Tensor, atts: Tensor, image: Tensor) -> Tensor:
            pairs = list(zip(images[image, 0, 0].long().tolist(), texts[:, 0, 0].long().tolist(), strict=True))
            self.asked += pairs
            self.largest = max(self.largest, len(pairs))
            return torch.stack([self.scores[i, j] for i, j in pairs])

        return score


def numbered(cosine: Tensor, text_image: Tensor) -> WholeGallery:
    """A gallery with a given cosine matrix, its states saying who they are."""
    m, t = cosine.shape
    images = torch.arange(m).float()[:, None, None].expand(m, 5, 2)
    texts = torch.arange(t).float()[:, None, None].expand(t, 3, 2)
    return WholeGallery(images, texts, torch.ones(t, 3, dtype=torch.long), torch.eye(m), cosine.T, text_image)


def test_only_shortlists_are_matched_and_no_pair_twice(block: int) -> None:
    generator = torch.Generator().manual_seed(0)
    cosine = torch.rand(10, 30, generator=generator)
    matcher = Counting(torch.rand(10, 30, generator=generator))
    reranked(numbered(cosine, torch.arange(30) % 10), matcher, k=4, pairs=7)
    wanted = {(i, int(j)) for i in range(10) for j in cosine[i].topk(4).indices}
    wanted |= {(int(i), j) for j in range(30) for i in cosine[:, j].topk(4).indices}
    assert len(matcher.asked) == len(set(matcher.asked))
    assert set(matcher.asked) == wanted
    assert matcher.largest == 7
    assert matcher.block == min(block, 10)


def test_who_is_not_on_the_shortlist_is_not_found() -> None:
    cosine = torch.eye(20).roll(1, 0)  # the right answer is never the nearest
    matcher = Counting(torch.eye(20))
    assert reranked(numbered(cosine, torch.arange(20)), matcher, k=1)["r_mean"] == 0.0
    assert reranked(numbered(cosine, torch.arange(20)), matcher, k=20)["r_mean"] == 100.0


def test_processes_share_the_matching(block: int) -> None:
    generator = torch.Generator().manual_seed(0)
    gallery = numbered(torch.rand(10, 30, generator=generator), torch.arange(30) % 10)
    scores = torch.rand(10, 30, generator=generator)
    alone = Counting(scores)
    expected = reranked(gallery, alone, k=4, pairs=7)
    parts: list[Tensor] = []
    workers = [Counting(scores), Counting(scores)]
    for rank, worker in enumerate(workers):
        reranked(gallery, worker, k=4, pairs=7, share=Share(rank, 2, lambda part: parts.append(part) or part))
    assert sorted(workers[0].asked + workers[1].asked) == sorted(alone.asked)
    assert min(len(worker.asked) for worker in workers) > len(alone.asked) // 3
    shares = [Share(rank, 2, lambda part, other=parts[1 - rank]: part + other) for rank in (0, 1)]
    recalls = [gallery.reranked(Counting(scores), k=4, pairs=7, share=share).recall for share in shares]
    for state in ("numbers", "ranks"):
        getattr(recalls[0], state).extend(getattr(recalls[1], state))  # what torchmetrics does between processes
    assert floats(recalls[0].compute()) == expected


def test_an_empty_gallery_is_refused() -> None:
    with pytest.raises(ValueError, match="no image with a caption"):
        Gallery().whole()


def test_of_several_embeddings_of_an_image_the_nearest_counts() -> None:
    images = torch.eye(3)[torch.tensor([[0, 1], [2, 2]])]  # two images of two embeddings each
    texts = torch.tensor([[0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    gallery = WholeGallery(
        torch.zeros(2, 1, 1), torch.zeros(2, 1, 1), torch.ones(2, 1), images, texts, torch.tensor([0, 1])
    )
    assert torch.equal(gallery.similarity(), torch.tensor([[0.8, 0.0], [0.0, 1.0]]))
