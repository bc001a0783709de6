"""An order of a layer's inputs in which good ones don't meet in one group of N:M (RIA, Zhang et al., ICLR 2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from vlp_bench.pruning.selection.thresholds import keep_largest_per_group


def kept_score(scores: Tensor, kept: int, group: int) -> float:
    """The sum of the scores that n:m keeps of (d_out, d_in) in the order in which they stand."""
    return float(scores.double()[keep_largest_per_group(scores, kept, group)].sum())


def dealt(scores: Tensor, group: int) -> Tensor:
    """(d_in,) inputs by their sum of scores, dealt out to the groups like cards: forth, back, forth."""
    runs = scores.double().sum(0).argsort(stable=True).view(group, -1)
    runs = torch.stack([run.flip(0) if number % 2 else run for number, run in enumerate(runs)])
    return runs.t().reshape(-1)


def assigned(scores: Tensor, order: Tensor, kept: int, group: int) -> Tensor:
    """(d_in,) the order improved: place by place, each group's input goes to the group that keeps most with it.

    For each of the places an assignment problem is solved, so that the kept score never falls.
    """
    from scipy.optimize import linear_sum_assignment

    places = order.view(-1, group).clone()
    for place in range(group):
        held = torch.stack([_with_each(scores, places[g], place, places[:, place], kept) for g in range(len(places))])
        _, best = linear_sum_assignment(held.cpu().numpy(), maximize=True)
        places[:, place] = places[torch.as_tensor(best, device=places.device), place]
    return places.reshape(-1)


def _with_each(scores: Tensor, own: Tensor, place: int, candidates: Tensor, kept: int) -> Tensor:
    """(candidates,) float64: what a group keeps with each of them in that place of its inputs."""
    rest = torch.cat([own[:place], own[place + 1 :]])
    if kept > len(rest):
        return scores[:, rest].double().sum() + scores[:, candidates].double().sum(0)
    top = scores[:, rest].double().topk(kept, dim=1).values
    last = torch.maximum(top[:, -1:], scores[:, candidates].double())
    return top[:, :-1].sum() + last.sum(0)
