"""Re-ranking of a retrieval gallery against a straightforward loop over queries, and the memory it takes.

    python benchmarks/reranking.py [--size small|paper] [--pixels 384] [--images 12] [--each 5] [--k 12] [--rounds 3]
    python benchmarks/reranking.py --memory [--images 5000]

The loop matches every query with its k candidates, images repeated and captions at their full padding, as the released
evaluation does. States are random: what is measured does not depend on them. `--memory` fills a gallery of 5,000 images
(8.9 GB of states at 384 px, waiting on the CPU) and prints how much more than its states re-ranking takes.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
from support.measure import interleaved, peak, ratio
from support.models import DEVICE, SIZES
from torch import Tensor
from torch.nn import functional as F

from vlp_bench.models.xvlm.model import XVLM
from vlp_bench.tasks.gallery import Share, WholeGallery

TOKENS = 40


def gallery(model: XVLM, images: int, each: int) -> WholeGallery:
    """Random states of images and captions of 8 to 16 words (COCO's), as if a model had encoded them."""
    config, g, texts = model.config, torch.Generator().manual_seed(0), images * each
    tokens = (config.image_size // config.patch_size) ** 2 + 1
    atts = (torch.arange(TOKENS) < torch.randint(10, 18, (texts, 1), generator=g)).long()
    states = torch.empty(images, tokens, config.vision_width)
    for image in states:
        image.normal_(generator=g)
    return WholeGallery(
        states,
        torch.randn(texts, TOKENS, config.text_width, generator=g),
        atts.to(DEVICE),
        F.normalize(torch.randn(images, config.embed_dim, generator=g), dim=1).to(DEVICE),
        F.normalize(torch.randn(texts, config.embed_dim, generator=g), dim=1).to(DEVICE),
        torch.arange(images).repeat_interleave(each).to(DEVICE),
    )


@torch.inference_mode()
def one_by_one(model: XVLM, whole: WholeGallery, k: int) -> tuple[Tensor, Tensor]:
    """Scores of each image's k texts (m, k) and of each text's k images (t, k), query by query."""
    sims = whole.similarity()
    by_image, by_text = [], []
    for image, near in enumerate(sims.topk(min(k, sims.shape[1]), dim=1).indices):
        shown = whole.images[image].to(DEVICE).expand(len(near), -1, -1)
        by_image.append(score(model, whole.texts[near.cpu()].to(DEVICE), whole.atts[near], shown))
    for text, near in enumerate(sims.T.topk(min(k, sims.shape[0]), dim=1).indices):
        said = whole.texts[text].to(DEVICE).expand(len(near), -1, -1)
        shown = whole.images[near.cpu()].to(DEVICE)
        by_text.append(score(model, said, whole.atts[text].expand(len(near), -1), shown))
    return torch.stack(by_image), torch.stack(by_text)


def score(model: XVLM, texts: Tensor, atts: Tensor, images: Tensor) -> Tensor:
    return model.itm_head(model.fuse(texts, atts, images)[:, 0])[:, 1]


def main() -> None:
    """Print the ratio, or the memory."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--size", default="paper", choices=sorted(SIZES))
    p.add_argument("--pixels", type=int, default=384)
    p.add_argument("--images", type=int)
    p.add_argument("--each", type=int, default=5, help="captions of an image")
    p.add_argument("--k", type=int, default=12, help="candidates of a query (the papers': 256 on COCO)")
    p.add_argument("--pairs", type=int, default=64, help="pairs matched at a time")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--memory", action="store_true")
    args = p.parse_args()
    torch.manual_seed(0)
    model = XVLM(replace(SIZES[args.size], image_size=args.pixels)).eval().to(DEVICE)
    images = args.images or (5000 if args.memory else 12)
    print(f"XVLM {args.size}, {args.pixels} px, {images} images with {args.each} captions each, on {DEVICE}")
    whole = gallery(model, images, args.each)
    (memory if args.memory else speed)(model, whole, args)


def speed(model: XVLM, whole: WholeGallery, args: argparse.Namespace) -> None:
    """The loop's time over ours, on the same gallery and the same shortlists."""

    @torch.inference_mode()
    def ours() -> None:
        asking = replace(whole, texts=model.asks(whole.texts, whole.atts))
        asking.reranked(model, k=args.k, pairs=args.pairs, share=Share())

    found = interleaved({"ours": ours, "loop": lambda: one_by_one(model, whole, args.k)}, args.rounds, warm_up=0)
    for name, times in found.items():
        print(f"{name}: {min(times):.2f} s")
    print(
        f"re-ranking is {ratio(found['loop'], found['ours']):.2f} times as fast as the loop (best candidates of both)"
    )


@torch.inference_mode()
def memory(model: XVLM, whole: WholeGallery, args: argparse.Namespace) -> None:
    """Memory beyond model and states: two blocks of images, and some pairs of each."""
    states = (whole.images.numel() + whole.texts.numel()) * 4
    before, pairs = peak(), 4 * args.pairs
    image = torch.arange(2 * 64).repeat_interleave(2)[:pairs].to(DEVICE)
    whole.match(model, image, torch.arange(len(image), device=DEVICE), pairs=args.pairs, share=Share())
    extra = peak() - before
    print(f"states of the gallery: {states / 1e9:.2f} GB; re-ranking takes {extra / 1e9:.2f} GB more at its peak")
    print(f"all states fused at once would take {len(whole.texts) * whole.images[0].numel() * 4 / 1e9:.0f} GB")


if __name__ == "__main__":
    main()
