"""NLVR2's consistency: sentences, not pairs, that a model is right about.

Source: Suhr et al., A Corpus for Reasoning about Natural Language Grounded in Photographs (ACL 2019), and its own
evaluation program (nlvr2/eval/metrics.py of lil-lab/nlvr).
"""

from collections.abc import Iterable


def consistency(judged: Iterable[tuple[int, bool]]) -> float:
    """Percent of the sentences whose every pair was judged rightly, of (number of the sentence, right) for each pair.

    Raises:
        ValueError: there is no pair.
    """
    whole: dict[int, bool] = {}
    for sentence, right in judged:
        whole[sentence] = whole.get(sentence, True) and right
    if not whole:
        raise ValueError("there is nothing to judge: the split has no pair")
    return 100 * sum(whole.values()) / len(whole)
