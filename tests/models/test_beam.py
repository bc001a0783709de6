"""Beam search against every sequence there is, and its rule by hand."""

import itertools

import pytest
import torch

from vlp_bench.models.beam import BeamRule, beam_search

EOS = 3


def table(v=4, depth=6, seed=0):
    """A decoder that looks at the last token and the position only, as logits (depth, v, v)."""
    return torch.randn(depth, v, v, generator=torch.Generator().manual_seed(seed)) * 2


class Markov:
    """A step function with a cache: the position of each row, which it checks to be what the rows say."""

    def __init__(self, logits):
        self.logits, self.position, self.seen = logits, 0, None

    def __call__(self, new, rows):
        self.seen = new if self.seen is None else torch.cat([self.seen[rows], new], dim=1)
        self.position = self.seen.shape[1]
        return self.logits[self.position - 1, new[:, -1]]


def all_sequences(logits, first, longest):
    """Score of every sequence that ends with EOS or reaches the longest length, by the released rule."""
    log_probs, found = logits.log_softmax(-1), {}
    for length in range(1, longest):
        for words in itertools.product([0, 1, 2], repeat=length - 1):
            tokens = [first, *words]
            steps = sum(float(log_probs[i, tokens[i], tokens[i + 1]]) for i in range(len(tokens) - 1))
            found[(*tokens, EOS)] = (steps + float(log_probs[length - 1, tokens[-1], EOS])) / length
    for words in itertools.product([0, 1, 2], repeat=longest - 1):
        tokens = [first, *words]
        found[tuple(tokens)] = sum(float(log_probs[i, tokens[i], tokens[i + 1]]) for i in range(longest - 1)) / longest
    return found


@pytest.mark.parametrize("seed", range(8))
def test_enough_beams_find_the_best_of_all_sequences(seed):
    logits = table(seed=seed)
    rule = BeamRule(beams=60, max_length=4, min_length=0, eos=EOS)
    tokens = beam_search(Markov(logits), torch.tensor([[1], [2]]), rule).tolist()
    for row in tokens:
        scores = all_sequences(logits, row[0], 4)
        ended = tuple(row[: row.index(EOS) + 1]) if EOS in row else tuple(row)
        assert scores[ended] == pytest.approx(max(scores.values()), abs=1e-5)


def test_one_beam_is_greedy_until_the_end_token():
    logits = table(seed=3)
    tokens = beam_search(Markov(logits), torch.tensor([[0]]), BeamRule(beams=1, max_length=5, min_length=5, eos=EOS))
    expected = [0]
    for i in range(4):
        scores = logits[i, expected[-1]].clone()
        scores[EOS] = -torch.inf
        expected.append(int(scores.argmax()))
    assert tokens.tolist() == [expected]


def test_the_prompt_counts_in_the_length_penalty():
    """One step: ending at once (-1.0) over 3 tokens of prompt, or a word (-0.5) over 4: both scores divide by all."""
    logits = torch.full((4, 4), -torch.inf)
    logits[:, EOS], logits[:, 1] = -1.2, -0.358
    rule = BeamRule(beams=2, max_length=4, min_length=0, eos=EOS)

    def step(new, rows):
        return logits[new[:, -1]]

    log_probs = logits[0].log_softmax(-1)
    assert log_probs[1] / 4 > log_probs[EOS] / 3
    assert beam_search(step, torch.tensor([[0, 0, 0]]), rule).tolist() == [[0, 0, 0, 1]]


def test_the_end_token_is_banned_below_the_minimum():
    def step(new, rows):
        return torch.tensor([0.0, 0, 0, 9]).expand(len(new), 4)

    for least in range(1, 5):
        rule = BeamRule(beams=2, max_length=6, min_length=least, eos=EOS, pad=0)
        (tokens,) = beam_search(step, torch.tensor([[1]]), rule).tolist()
        assert tokens.index(EOS) == max(1, least)


def test_inputs_do_not_disturb_each_other():
    logits = table(seed=5)
    rule = BeamRule(beams=3, max_length=6, min_length=0, eos=EOS)
    both = beam_search(Markov(logits), torch.tensor([[1], [2]]), rule)
    for row, first in enumerate((1, 2)):
        alone = beam_search(Markov(logits), torch.tensor([[first]]), rule)[0]
        assert both[row, : len(alone)].tolist() == alone.tolist()
        assert not both[row, len(alone) :].any()


def test_impossible_rules_are_refused():
    with pytest.raises(ValueError, match="beams must be 1 to 1000, got 0"):
        BeamRule(beams=0)
    with pytest.raises(ValueError, match="min_length must be 0 to max_length 4, got 5"):
        BeamRule(max_length=4)
    with pytest.raises(ValueError, match="1 to 19 tokens, got 20"):
        beam_search(Markov(table()), torch.zeros(1, 20).long(), BeamRule())
