"""Caption metrics: what is said where something is missing, and early."""

import pytest

from vlp_bench.data.records import CaptionedImage
from vlp_bench.metrics import captions, tokenisers
from vlp_bench.metrics.caption_scores import score
from vlp_bench.metrics.captions import CaptionScores, Spice
from vlp_bench.metrics.tokenisers import ptb, regex
from vlp_bench.metrics.truth import Truth

IMAGES = [CaptionedImage("a.jpg", ("a red ring",), "a")]


@pytest.fixture
def missing(monkeypatch):
    """Hides Java or the package."""

    def hide(*what):
        for module in (captions, tokenisers):
            for name in what:
                monkeypatch.setattr(module, name, lambda: None)

    return hide


@pytest.fixture
def present(monkeypatch, tmp_path):
    """Pretends that Java and the package are there."""
    for module in (captions, tokenisers):
        monkeypatch.setattr(module, "java", lambda: "java")
        monkeypatch.setattr(module, "package", lambda: tmp_path)


def test_without_java_the_papers_tokeniser_is_refused_at_construction(missing):
    missing("java")
    with pytest.raises(ValueError, match=r"no 'java' on the PATH.*tokenizer=regex"):
        CaptionScores()


def test_without_the_package_the_papers_metrics_are_refused_at_construction(present, missing):
    missing("package")
    with pytest.raises(ValueError, match=r"pip install 'vlp_bench\[caption\]'"):
        CaptionScores()
    with pytest.raises(ValueError, match="PTB tokeniser cannot run"):
        ptb(["a"])


def test_without_the_package_the_stand_in_computes_nothing_and_says_so(missing):
    missing("package")
    scores = CaptionScores(tokenizer="regex")({0: "a red ring"}, IMAGES)
    assert scores.values == {}
    [(names, why)] = scores.notes.items()
    assert {"bleu", "meteor", "rouge_l", "cider", "spice"} == set(names.split(", "))
    assert why.startswith("not computed: pycocoevalcap is not installed")


def test_metrics_that_are_not_computed_are_named_with_the_reason(present, missing):
    assert set(CaptionScores().notes) == {"spice"}
    assert "metrics.spice.corenlp_dir" in CaptionScores().notes["spice"]
    missing("java")
    notes = CaptionScores(tokenizer="regex").notes
    assert notes["meteor"].startswith("not computed: it needs Java")
    assert "compare with nobody" in notes["..._regex"]


def test_a_folder_without_spice_s_jars_is_refused(present, tmp_path):
    (tmp_path / captions.CORENLP[0]).touch()
    with pytest.raises(ValueError, match=r"corenlp_dir=.* lacks stanford-corenlp-3\.6\.0-models\.jar"):
        Spice(tmp_path)


def test_spice_runs_beside_its_jars_and_reports_each_image(present, tmp_path, monkeypatch):
    """A stand-in for Java checks what SPICE would find, and answers."""
    import json
    import subprocess

    for jar in captions.CORENLP:
        (tmp_path / jar).touch()
    (tmp_path / "spice/lib").mkdir(parents=True)
    (tmp_path / "spice/spice-1.0.jar").touch()
    (tmp_path / "spice/lib/guava-19.0.jar").touch()

    def answer(command, cwd, **_):
        assert {p.name for p in (cwd / "lib").iterdir()} == {*captions.CORENLP, "guava-19.0.jar"}
        assert "-cache" not in command
        asked = json.loads((cwd / "in.json").read_text())
        assert asked == [
            {"image_id": 0, "test": "ring", "refs": ["red ring"]},
            {"image_id": 1, "test": "x", "refs": ["y"]},
        ]
        told = [{"image_id": n, "scores": {"All": {"f": f}}} for n, f in ((1, 0.25), (0, 0.5))]
        (cwd / "out.json").write_text(json.dumps(told))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", answer)
    assert Spice(tmp_path)({0: ["red ring"], 1: ["y"]}, {0: ["ring"], 1: ["x"]}) == [0.5, 0.25]
    failed = subprocess.CompletedProcess([], 1, "", "no parser")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ValueError, match="SPICE failed: no parser"):
        Spice(tmp_path)({0: ["a"]}, {0: ["a"]})


@pytest.mark.parametrize(
    "text, words",
    [
        ("A man, riding a T-shirt.", "a man riding a t-shirt"),
        ("it doesn't move; the dog's here!", "it does n't move the dog 's here"),
        ("at 8:30 p.m. with 1,000 kites", "at 8:30 p.m. with 1,000 kites"),
    ],
)
def test_words_are_cut_as_stanford_cuts_them(text, words):
    assert regex([text]) == [words]


def test_an_unknown_tokeniser_is_refused():
    with pytest.raises(ValueError, match="one of ptb, regex, got 'nltk'"):
        CaptionScores(tokenizer="nltk")


def test_cider_of_one_image_is_not_defined_and_that_is_said():
    pytest.importorskip("pycocoevalcap")
    scorer = CaptionScores(tokenizer="regex", meteor=False)
    scores = scorer({0: "a red ring"}, IMAGES)
    assert "cider_regex" not in {*scores.values, *scores.examples, *scorer.names(IMAGES)}
    assert scores.notes["cider_regex"].startswith("not defined")
    assert scores.values["bleu1_regex"] == pytest.approx(100)
    two = [*IMAGES, CaptionedImage("b.jpg", ("a blue car",), "b")]
    both = scorer({0: "a red ring", 1: "a blue car"}, two)
    assert set(both.values) == set(scorer.names(two))
    assert both.values["cider_regex"] > 500
    assert "cider_regex" not in both.notes


def test_a_domain_of_one_image_has_no_cider_and_the_others_have():
    pytest.importorskip("pycocoevalcap")
    domains = [("in-domain", "a red ring"), ("in-domain", "a blue car"), ("out-domain", "a green dog")]
    images = [CaptionedImage(f"{n}.jpg", (text,), f"{n}", domain) for n, (domain, text) in enumerate(domains)]
    scores = score([CaptionScores(tokenizer="regex", meteor=False)], {n: t for n, (_, t) in enumerate(domains)}, images)
    assert {"cider_regex", "in-domain/cider_regex", "out-domain/bleu4_regex"} <= scores.values.keys()
    assert "out-domain/cider_regex" not in scores.values
    assert scores.notes["out-domain/cider_regex"].startswith("not defined")
    assert {"meteor", "spice"} <= scores.notes.keys()
    assert "out-domain/meteor" not in scores.notes  # said once, of all


def test_the_truth_of_pictures_that_are_no_scenes_is_not_computed():
    scores = Truth()({0: "a red ring"}, IMAGES)
    assert (scores.values, scores.examples) == ({}, {})
    assert "not the embedded world's" in scores.notes["truth, grammatical"]
