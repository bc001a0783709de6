"""Models that answer in words: what is generated in batches, padded, is what each says when it is asked alone."""

import pytest

from tests.runs.own_model.folders import folder, pictures
from vlp_bench.data.readers.calibration_sets import read_set
from vlp_bench.models.checkpoints.pretrained import from_pretrained
from vlp_bench.models.foreign.generation import Generation, answers, continued
from vlp_bench.models.foreign.inputs import Inputs

SPEAKERS = (
    *("blip2", "blip2_t5", "llava", "llava_onevision", "qwen2_5_vl", "qwen3_vl", "smolvlm", "idefics3", "gemma3"),
    "paligemma",
)
TEXTS = ("a red dog", "a", "blue cat of a red dog w20 w21 w22", "w23 w24")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place, made = tmp_path_factory.mktemp("folders"), {}
    return lambda name: made[name] if name in made else made.setdefault(name, folder(name, place))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    examples = read_set(pictures(tmp_path_factory.mktemp("pictures"))).examples(4)
    return [example.images[0] for example in examples]


@pytest.mark.parametrize("name", SPEAKERS)
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # PaliGemma's processor, of tensors
def test_a_batch_says_what_each_says_alone(folders, images, name, beams):
    """Against `model.generate` itself, row by row, without padding."""
    place = folders(name)
    model, inputs = from_pretrained(place), Inputs(from_pretrained(place), place)
    assert answers(model)
    batch = inputs.prompts(images, TEXTS)
    assert not bool(batch["attention_mask"].all())
    together = continued(model, batch, Generation(beams=beams, max_new=6))
    alone = []
    for image, text in zip(images, TEXTS, strict=True):
        own = inputs.prompts([image], [text])
        assert bool(own["attention_mask"].all())
        [ids] = model.generate(**own, num_beams=beams, max_new_tokens=6, do_sample=False)
        alone.append(ids if name == "blip2_t5" else ids[own["input_ids"].shape[1] :])
    assert said(inputs, together) == said(inputs, alone)
    if beams == 1:
        assert len(set(said(inputs, together))) > 1  # image or text makes a difference


def said(inputs, rows):
    return [inputs.processor.tokenizer.decode(ids, skip_special_tokens=True) for ids in rows]
