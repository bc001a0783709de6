"""Beam search by the rule of the released captioners (transformers 4.31), over any decoder with a cache.

A finished sequence scores its log probability divided by its whole length, the prompt included and the end token not,
to the power `length_penalty`. Newer releases divide by the generated length: other, longer captions.
Shape legend: b inputs, w beams, t tokens, v vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

MOST_BEAMS = 1000  # far beyond any paper's; more would be a typing error that fills the memory
Step = Callable[[Tensor, "Tensor | None"], Tensor]
"""(b w, k) new tokens and the row (b w,) each goes on from (None: itself) -> (b w, v) logits of the next."""


@dataclass(frozen=True)
class BeamRule:
    """How captions are generated; the defaults are the papers'.

    beams: sequences followed at once. max_length, min_length: tokens, prompt included. eos, pad: token ids.
    """

    beams: int = 3
    max_length: int = 20
    min_length: int = 5
    eos: int = 102
    pad: int = 0
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.beams <= MOST_BEAMS:
            raise ValueError(f"beams must be 1 to {MOST_BEAMS}, got {self.beams}")
        if not 0 <= self.min_length <= self.max_length:
            raise ValueError(f"min_length must be 0 to max_length {self.max_length}, got {self.min_length}")


@dataclass
class _Finished:
    """The best `beams` finished sequences of one input, in the order they ended."""

    rule: BeamRule
    kept: list[tuple[float, list[int]]] = field(default_factory=list)
    done: bool = False

    def add(self, tokens: list[int], log_prob: float) -> None:
        """Takes a sequence in (without its end token) and lets the worst go when there are too many."""
        score = log_prob / len(tokens) ** self.rule.length_penalty
        if len(self.kept) == self.rule.beams and score <= self.worst:
            return
        self.kept.append((score, tokens))
        if len(self.kept) > self.rule.beams:
            self.kept.pop(min(range(len(self.kept)), key=lambda i: self.kept[i][0]))

    @property
    def worst(self) -> float:
        return min((score for score, _ in self.kept), default=math.inf)

    @property
    def best(self) -> list[int]:
        """The highest score; of equal ones the last."""
        top = max(score for score, _ in self.kept)
        return next(tokens for score, tokens in reversed(self.kept) if score == top)

    def settle(self, log_prob: float, length: int) -> None:
        """Done once no running sequence, at best `log_prob` at this length, could end better than the worst kept."""
        full = len(self.kept) == self.rule.beams
        self.done = self.done or (full and self.worst >= log_prob / length**self.rule.length_penalty)


@dataclass
class _Running:
    """The `beams` sequences of every input that go on: tokens, log probabilities and the rows they came from."""

    tokens: list[list[int]]  # b w
    log_probs: list[float]  # b w
    rows: list[int] = field(default_factory=list)  # b w


@torch.no_grad()
def beam_search(step: Step, prompt: Tensor, rule: BeamRule) -> Tensor:
    """(b, t) prompts of one length -> (b, up to max_length) best sequences with prompt and end token, then padding.

    ValueError if the prompt fills max_length, or is empty.
    """
    if not 0 < prompt.shape[1] < rule.max_length:
        raise ValueError(f"the prompt must have 1 to {rule.max_length - 1} tokens, got {prompt.shape[1]}")
    wide = prompt.repeat_interleave(rule.beams, dim=0)
    starts = [0.0] + [-1e9] * (rule.beams - 1)  # all beams are the same at first: only one counts
    running = _Running(wide.tolist(), starts * len(prompt), [])
    finished = [_Finished(rule) for _ in range(len(prompt))]
    new, rows = wide, None
    for length in range(prompt.shape[1], rule.max_length):
        running = _advance(step(new, rows), running, finished, length, rule)
        if all(each.done for each in finished):
            break
        new = torch.tensor([tokens[-1:] for tokens in running.tokens], device=prompt.device)
        rows = torch.tensor(running.rows, device=prompt.device)
    return _chosen(running, finished, rule).to(prompt.device)


def _advance(logits: Tensor, running: _Running, finished: list[_Finished], length: int, rule: BeamRule) -> _Running:
    """One more token for every running sequence; those that end move to `finished`."""
    log_probs = logits.float().log_softmax(-1)
    if length < rule.min_length:
        log_probs[:, rule.eos] = -math.inf
    log_probs = log_probs + torch.tensor(running.log_probs, device=logits.device)[:, None]
    best = log_probs.view(len(finished), -1).topk(min(2 * rule.beams, rule.beams * logits.shape[1]), dim=1)
    scores, where = best.values.tolist(), best.indices.tolist()
    after = _Running([], [], [])
    for i, each in enumerate(finished):
        chosen = [(i * rule.beams + w // logits.shape[1], w % logits.shape[1]) for w in where[i]]
        _extend(after, running, each, chosen, scores[i], i * rule.beams, rule)
        each.settle(scores[i][0], length + 1)
    return after


def _extend(
    after: _Running,
    running: _Running,
    finished: _Finished,
    chosen: list[tuple[int, int]],
    scores: list[float],
    first: int,
    rule: BeamRule,
) -> None:
    """The continuations (row, token) of one input, best first: an end token among the best w ends a sequence."""
    kept = 0
    for rank, ((row, token), score) in enumerate(zip(chosen, scores, strict=True)):
        if finished.done or kept == rule.beams:
            break
        if token == rule.eos:
            if rank < rule.beams:
                finished.add(running.tokens[row], score)
            continue
        after.tokens.append([*running.tokens[row], token])
        after.log_probs.append(score)
        after.rows.append(row)
        kept += 1
    for _ in range(rule.beams - kept):  # a finished input keeps its rows, filled with padding
        after.tokens.append([*running.tokens[first], rule.pad])
        after.log_probs.append(0.0 if finished.done else -1e9)
        after.rows.append(first)


def _chosen(running: _Running, finished: list[_Finished], rule: BeamRule) -> Tensor:
    """The best sequence of every input; those that never ended compete as they are."""
    for i, each in enumerate(finished):
        if not each.done:
            for row in range(i * rule.beams, (i + 1) * rule.beams):
                each.add(running.tokens[row], running.log_probs[row])
    best = [each.best for each in finished]
    width = min(max(map(len, best)) + 1, rule.max_length)
    result = torch.full((len(best), width), rule.pad)
    for row, tokens in enumerate(best):
        ended = [*tokens, rule.eos][:width]
        result[row, : len(ended)] = torch.tensor(ended)
    return result
