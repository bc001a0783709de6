"""Bits of known probability in about as many bits as their entropy: a range coder over many lanes at once.

Range asymmetric numeral systems (Duda, arXiv:1311.2540): the state of a lane is one integer; a symbol of probability
f / 4096 makes it larger by the factor 4096 / f, and whenever it would leave 32 bits its lower 16 go to the output. The
lanes are independent but for the one stream they write to, so numpy takes a step of all of them in a few operations.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

PRECISION = 12
ONE = 1 << PRECISION  # probabilities are whole numbers of 1 / ONE, between 1 and ONE - 1
LOW = 1 << 16  # a state is at least this between two steps, and below 2³²
PER_LANE = 4096  # bits; a lane costs 32 bits for its state
MOST_LANES = 4096
Bools, Shorts = NDArray[np.bool_], NDArray[np.uint16]


def lanes_of(count: int) -> int:
    """How many lanes so many bits are spread over."""
    return min(MOST_LANES, max(1, count // PER_LANE))


def encode(bits: Bools, chances: Shorts) -> Shorts:
    """The code of (n,) bits, where bit i is true with probability chances[i] / ONE: final states, then words."""
    lanes = lanes_of(len(bits))
    laid, likely = _in_lanes(bits, lanes, False), _in_lanes(chances, lanes, 1)
    state = np.full(lanes, LOW, np.uint32)
    words: list[Shorts] = []
    for step in range(len(laid) - 1, -1, -1):
        chance, bit = likely[step].astype(np.uint32), laid[step]
        share, start = np.where(bit, chance, ONE - chance), np.where(bit, np.uint32(0), chance)
        full = state >= share << np.uint32(32 - PRECISION)
        words.append(state[full].astype(np.uint16))
        state = np.where(full, state >> np.uint32(16), state)
        whole, rest = np.divmod(state, share)
        state = (whole << np.uint32(PRECISION)) + rest + start
    return np.concatenate([state.view(np.uint16), *reversed(words)])


def decode(code: Shorts, chances: Shorts) -> Bools:
    """The inverse of `encode`.

    Raises:
        ValueError: the code is not one of bits with these chances: too short, too long, or damaged.
    """
    count, lanes = len(chances), lanes_of(len(chances))
    check_length(len(code), count)
    state, words, position = code[: 2 * lanes].copy().view(np.uint32), code[2 * lanes :].astype(np.uint32), 0
    likely = _in_lanes(chances, lanes, 1)
    found = np.empty(likely.shape, np.bool_)
    for step, row in enumerate(likely):
        chance, slot = row.astype(np.uint32), state & np.uint32(ONE - 1)
        bit = found[step] = slot < chance
        state = np.where(bit, chance, ONE - chance) * (state >> np.uint32(PRECISION)) + slot
        state -= np.where(bit, np.uint32(0), chance)
        empty = state < LOW
        needed = int(np.count_nonzero(empty))
        if position + needed > len(words):
            raise ValueError("the code ends too early")
        state[empty] = (state[empty] << np.uint32(16)) | words[position : position + needed]
        position += needed
    if position != len(words) or np.any(state != LOW):
        raise ValueError("the code is damaged")
    return found.T.reshape(-1)[:count]


def check_length(words: int, bits: int) -> None:
    """Raises ValueError where so few words of 16 bits can't hold so many, though each were as likely as can be."""
    least = bits * -math.log2((ONE - 1) / ONE) / 16
    if words < max(2 * lanes_of(bits), least / 2):  # a half: states are whole numbers, which saves a little
        raise ValueError(f"a code of {words} words can't hold {bits} bits")


def _in_lanes(values: np.ndarray, lanes: int, filler: int) -> np.ndarray:
    """(steps, lanes): lane l holds a contiguous stretch of the values; what is missing at the end is `filler`."""
    steps = -(-len(values) // lanes)
    padded = np.concatenate([values, np.full(steps * lanes - len(values), filler, values.dtype)])
    return np.ascontiguousarray(padded.reshape(lanes, steps).T)
