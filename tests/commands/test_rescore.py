"""Captions of a finished run scored again: the run keeps all it had and gains the metrics it lacked."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.runs.test_tasks import SMALL
from vlp_bench.commands.rescore import NOTE, Request, _extended, rescore
from vlp_bench.metrics import captions
from vlp_bench.metrics.caption_scores import Scores
from vlp_bench.metrics.tokenisers import java, package
from vlp_bench.results import examples
from vlp_bench.results.store import Store
from vlp_bench.runs.specification import specification_of
from vlp_bench.runs.terminal.errors import UserError


class Lengths:
    """Stands in for the scorer that needs Java: METEOR is the number of words."""

    def __init__(self, corenlp_dir=None):
        self.corenlp_dir = corenlp_dir

    def __call__(self, captions, images):
        words = [float(len(captions[n].split())) for n in range(len(images))]
        return Scores({"meteor": sum(words) / len(words)}, {"meteor": words}, {"spice": "not computed: a test"})


@pytest.fixture
def run(tmp_path, tiny_weights):
    """A finished run of captioning: store and folder."""
    from tests.runs.test_run import performed

    given = ["benchmark=mini", f"model.weights={tiny_weights}", f"paths.out={tmp_path}", *SMALL]
    specification = specification_of(["+exp=xvlm_ic", *given, "recipe.epochs=0"])
    performed(specification)
    return Store(tmp_path / "runs"), specification


def test_a_run_keeps_its_rows_and_gains_metrics(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(captions, "CaptionScores", Lengths)
    store, made = run
    before, kept = store.last(made.run), examples.read(made.folder)
    assert rescore(Request(str(tmp_path))) == 1
    told = [row["caption"] for row in json.loads((made.folder / "captions.json").read_text())]
    after = {(row.split, row.metric): row for row in store.last(made.run)}
    assert store.done(made.run)
    assert after["test", "meteor"].value == pytest.approx(np.mean([len(text.split()) for text in told]))
    assert len(after) == len(before) + 1
    for row in before:
        same = after[row.split, row.metric]
        changed = {key for key in row.provenance if row.provenance[key] != same.provenance[key]}
        assert (same.value, same.run, same.setting, changed) == (row.value, row.run, row.setting, {"notes", "time"})
    notes = after["test", "truth"].provenance["notes"]
    assert notes["meteor"] == NOTE  # it was "not computed: switched off"
    assert notes["spice"] == "not computed: a test"
    assert "..._regex" in notes  # those metrics are still there
    seen = examples.read(made.folder)
    assert seen.keys() == {*kept, "meteor"}
    assert all(np.array_equal(seen[name], kept[name]) for name in kept)
    assert seen["meteor"].tolist() == [len(text.split()) for text in told]
    assert rescore(Request(str(tmp_path), exp="xvlm_ic")) == 0  # again: nothing is left to do
    assert rescore(Request(str(tmp_path), force=True)) == 1
    assert rescore(Request(str(tmp_path), corenlp_dir=str(tmp_path))) == 1  # SPICE is still missing
    assert "1 captioning runs: 1 scored already, 0 to score" in capsys.readouterr().out
    had = [*after.values(), replace(after["test", "truth"], metric="spice")]  # computed before, not this time
    [again, *_] = _extended(had, Scores({"meteor": 1.0}, {}, {"spice": "not computed: a test"}), 1.0)
    assert again.provenance["notes"].keys() == {"..._regex", "meteor"}
    assert len(store.query(run=made.run)) == len(after)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda told: told[1:], "describes 3 images that are not the 4"),
        (lambda told: [{"image_id": row["image_id"]} for row in told], "cannot be read (KeyError('caption'))"),
        (lambda told: [told[1], told[0], *told[2:]], "describes 4 images that are not the 4"),
    ],
)
def test_captions_that_do_not_fit_are_named_and_nothing_is_stored(run, tmp_path, monkeypatch, capsys, change, said):
    monkeypatch.setattr(captions, "CaptionScores", Lengths)
    store, made = run
    file, rows = made.folder / "captions.json", store.file(made.name).read_bytes()
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(SystemExit, match="1"):
        rescore(Request(str(tmp_path)))
    assert said in capsys.readouterr().err
    assert store.file(made.name).read_bytes() == rows


def test_without_runs_or_java_it_says_so(run, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"no finished captioning run under .* fits"):
        rescore(Request(str(tmp_path), exp="blip_ic"))
    monkeypatch.setattr(captions, "java", lambda: None)
    with pytest.raises(ValueError, match="no 'java' on the PATH"):
        rescore(Request(str(tmp_path)))


@pytest.mark.slow
@pytest.mark.skipif(java() is None or package() is None, reason="needs Java and the extra 'caption'")
def test_the_words_of_the_world_are_cut_alike_with_java_and_without(run, tmp_path):
    assert rescore(Request(str(tmp_path))) == 1
    numbers = {row.metric: row.value for row in run[0].last(run[1].run) if row.split == "test"}
    assert numbers["meteor"] > 0
    for metric in ("bleu1", "rouge_l"):  # CIDEr of four images of an untrained model is 0
        assert numbers[metric] == pytest.approx(numbers[f"{metric}_regex"], rel=1e-5)
        assert numbers[metric] > 0
