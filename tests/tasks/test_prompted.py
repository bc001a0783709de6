"""BLIP-2's zero-shot generation: what LAVIS's evaluations allow."""

import torch
from torch import Tensor, nn

from tests.models.tiny import blip2
from vlp_bench.tasks.prompted import PromptedVQA

END = 1
"""T5's end of a text."""


class Silent(nn.Module):
    """A word head that says the end above all, whatever came before."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.words, self.weight = words, nn.Parameter(torch.zeros(words, 1))

    def forward(self, states: Tensor) -> Tensor:
        logits = torch.zeros(*states.shape[:-1], self.words)
        logits[..., END] = 20.0
        return logits


def test_an_answer_may_be_empty() -> None:
    """LAVIS asks for a length of 1, which the token that a decoder starts from makes up."""
    torch.manual_seed(0)
    task, batch = PromptedVQA(blip2.model().eval()), blip2.batches()[0]
    language = task.model.net.language_model
    language.lm_head = Silent(language.config.vocab_size)
    language.generation_config.eos_token_id = END
    said = task.model.generate(batch.images, batch.text_ids, batch.text_atts, length_penalty=-1.0, **task.settings)
    assert set(said[:, 1:].flatten().tolist()) <= {END, language.config.pad_token_id}
