"""`python -m vlp_bench.commands.gate`: what the checkpoint has learnt of each attribute, against a control."""

from vlp_bench.data.phrases import vocabulary
from vlp_bench.data.probes import Case, batches
from vlp_bench.data.text import make_tokenizer
from vlp_bench.models.xvlm import XVLM
from vlp_bench.tasks.pretraining import word_accuracy


def accuracies(model: XVLM, cases: dict[str, list[Case]]) -> dict[str, tuple[float, float]]:
    """Attribute -> masked-word accuracy, and that of the control with shuffled images; percent."""
    tokenizer = make_tokenizer(vocabulary())
    found = {}
    for attribute, listed in cases.items():
        probes = batches(listed, tokenizer)
        found[attribute] = (word_accuracy(model, probes), word_accuracy(model, probes, shuffled=True))
    return found
