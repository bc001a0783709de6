"""BLEU, METEOR, ROUGE-L, CIDEr and SPICE by pycocoevalcap's scorers, called one by one.

Its own driver always runs all five, starts METEOR anew each time, downloads SPICE's models and writes into the package.
Here METEOR's process is started once and kept, SPICE runs with jars the user supplies in a folder of its own,
and what cannot be computed is said, never counted as 0. Values are times 100, as the papers print them.
"""

import json
import shutil
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from vlp_bench.data.records import CaptionedImage
from vlp_bench.lifetime import bound
from vlp_bench.metrics.caption_scores import Scores
from vlp_bench.metrics.tokenisers import MISSING, TOKENISERS, java, no_java, package, ptb, regex

CORENLP = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
NO_CIDER = "not defined: a word weighs by how few of the images it describes, and there is one image"
Cut = dict[int, list[str]]
"""Image -> its texts, cut into words."""
Groups = tuple[tuple[str, ...], ...]


class CaptionScores:
    """The metrics of the COCO caption evaluation.

    Args:
        tokenizer: "ptb" (the papers') or "regex" (no Java, for development; metrics are then named ..._regex).
        meteor: whether METEOR is computed (needs Java, 1.5 GB of memory, 20 s to start).
        corenlp_dir: folder with CoreNLP 3.6.0's two jars, for SPICE; None: SPICE is not computed.

    Raises:
        ValueError: a tokenizer there is not, no Java where it is needed, or a folder without the jars.
    """

    def __init__(self, *, tokenizer: str = "ptb", meteor: bool = True, corenlp_dir: str | None = None) -> None:
        if tokenizer not in TOKENISERS:
            raise ValueError(f"tokenizer must be one of {', '.join(TOKENISERS)}, got {tokenizer!r}")
        if tokenizer == "ptb" and java() is None:
            cure = "or take the labelled stand-in tokenizer=regex, without METEOR and SPICE"
            raise ValueError(f"{no_java('tokenizer=ptb')}, {cure}")
        if tokenizer == "ptb" and package() is None:
            raise ValueError(f"the caption metrics cannot be computed: {MISSING}")
        self.tokenizer, self.meteor = tokenizer, meteor
        self.spice = None if corenlp_dir is None else Spice(corenlp_dir)
        self.notes = self._notes()
        self._meteor: Any = None
        self._references: dict[Groups, Cut] = {}

    def _notes(self) -> dict[str, str]:
        """Metric -> why it is not computed, and the label of the stand-in tokeniser."""
        if package() is None:
            return {"bleu, meteor, rouge_l, cider, spice": f"not computed: {MISSING}"}
        notes = {}
        if self.tokenizer == "regex":
            notes["..._regex"] = "words were cut without Stanford's PTB tokeniser; compare with nobody's numbers"
        if not self.meteor:
            notes["meteor"] = "not computed: switched off"
        elif java() is None:
            notes["meteor"] = f"not computed: {no_java('it')}"
        if self.spice is None:
            notes["spice"] = f"not computed: give the folder of {' and '.join(CORENLP)} as metrics.spice.corenlp_dir"
        return notes

    def prepare(self) -> None:
        """Start METEOR's process; it loads its tables while a model trains."""
        if self._meteor is None and "meteor" not in self.notes and package() is not None:
            from pycocoevalcap.meteor.meteor import Meteor  # pyright: ignore[reportMissingImports]

            self._meteor = Meteor()
            process = self._meteor.meteor_p
            threading.Thread(target=_drain, args=(process.stderr,), daemon=True).start()
            weakref.finalize(self, _end, process)

    @property
    def label(self) -> str:
        """What the names of metrics end in."""
        return "_regex" if self.tokenizer == "regex" else ""

    def names(self, images: Sequence[CaptionedImage]) -> Sequence[str]:
        """The metrics it computes of captions of such images."""
        if package() is None:
            return ()
        names = ["bleu1", "bleu2", "bleu3", "bleu4", "rouge_l"]
        names += ["cider"] * (len(images) > 1) + ["spice"] * (self.spice is not None)
        names += ["meteor"] * ("meteor" not in self.notes)
        return [name + self.label for name in names]

    def __call__(self, captions: Mapping[int, str], images: Sequence[CaptionedImage]) -> Scores:
        """One caption for every image, by its place in `images`."""
        if package() is None:
            return Scores({}, {}, self.notes)
        references, candidates = self._cut(captions, images)
        values, each = _words(references, candidates)
        self.prepare()
        if self._meteor is not None:
            score, scores = self._meteor.compute_score(references, candidates)
            values["meteor"], each["meteor"] = 100 * score, [100 * s for s in scores]
        if self.spice is not None:
            each["spice"] = [100 * score for score in self.spice(references, candidates)]
            values["spice"] = sum(each["spice"]) / len(each["spice"])
        undefined = {} if "cider" in values else {f"cider{self.label}": NO_CIDER}
        return Scores(
            {name + self.label: value for name, value in values.items()},
            {name + self.label: scores for name, scores in each.items()},
            self.notes | undefined,
        )

    def _cut(self, captions: Mapping[int, str], images: Sequence[CaptionedImage]) -> tuple[Cut, Cut]:
        """References and candidates by image; references are cut once, however many epochs ask."""
        groups = tuple(image.captions for image in images)
        if groups not in self._references:
            self._references[groups] = self._cut_groups(groups)
        return self._references[groups], self._cut_groups(tuple((captions[n],) for n in range(len(images))))

    def _cut_groups(self, groups: Groups) -> Cut:
        words = (ptb if self.tokenizer == "ptb" else regex)([text for group in groups for text in group])
        ends = accumulate(map(len, groups), initial=0)
        return {n: words[start:end] for n, (start, end) in enumerate(pairwise(ends))}


def _words(references: Cut, candidates: Cut) -> tuple[dict[str, float], dict[str, list[float]]]:
    """BLEU-1 to 4, ROUGE-L and, of more than one image, CIDEr of all images, and of each."""
    from pycocoevalcap.bleu.bleu import Bleu  # pyright: ignore[reportMissingImports]
    from pycocoevalcap.cider.cider import Cider  # pyright: ignore[reportMissingImports]
    from pycocoevalcap.rouge.rouge import Rouge  # pyright: ignore[reportMissingImports]

    bleu, bleu_each = Bleu(4).compute_score(references, candidates, verbose=0)
    rouge, rouge_each = Rouge().compute_score(references, candidates)
    values = {f"bleu{n}": 100 * float(score) for n, score in enumerate(bleu, start=1)}
    each = {f"bleu{n}": [100 * float(s) for s in scores] for n, scores in enumerate(bleu_each, start=1)}
    values["rouge_l"], each["rouge_l"] = 100 * float(rouge), (100 * rouge_each).tolist()
    if len(references) > 1:
        cider, cider_each = Cider().compute_score(references, candidates)
        values["cider"], each["cider"] = 100 * float(cider), (100 * cider_each).tolist()
    return values, each


def _drain(stream: Any) -> None:
    """Read what a process says until it ends: a full pipe would stop it."""
    with stream:
        for _ in stream:
            pass


def _end(process: Any) -> None:
    """End METEOR's process and close what led to it; the package leaves that open."""
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        with suppress(OSError):
            stream.close()


class Spice:
    """SPICE (Anderson et al., ECCV 2016) in a folder of its own: jars are linked there, nothing is cached.

    Its cache does not work with Java 17 and is left out. ValueError if Java, the package or a jar is missing.
    """

    def __init__(self, corenlp_dir: str | Path) -> None:
        missing = [jar for jar in CORENLP if not (Path(corenlp_dir) / jar).is_file()]
        if missing:
            raise ValueError(f"metrics.spice.corenlp_dir={corenlp_dir} lacks {', '.join(missing)}")
        if java() is None:
            raise ValueError(no_java("SPICE"))
        if package() is None:
            raise ValueError(f"SPICE cannot be computed: {MISSING}")
        self.jars = [(Path(corenlp_dir) / jar).resolve() for jar in CORENLP]

    def __call__(self, references: Cut, candidates: Cut) -> list[float]:
        """F-score in 0..1 of every image's scene graph. ValueError, with Java's last words, if SPICE fails."""
        with tempfile.TemporaryDirectory(prefix="spice") as scratch:
            folder = Path(scratch)
            self._equip(folder)
            asked = [{"image_id": n, "test": candidates[n][0], "refs": refs} for n, refs in references.items()]
            (folder / "in.json").write_text(json.dumps(asked), encoding="utf-8")
            command = [str(java()), "-jar", "-Xmx8G", "spice-1.0.jar", "in.json", "-out", "out.json", "-subset"]
            done = subprocess.run(
                [*command, "-silent"], cwd=folder, capture_output=True, text=True, check=False, preexec_fn=bound()
            )
            if done.returncode or not (folder / "out.json").is_file():
                raise ValueError(f"SPICE failed: {done.stderr[-300:].strip()}")
            answered = json.loads((folder / "out.json").read_text(encoding="utf-8"))
        scores = {item["image_id"]: float(item["scores"]["All"]["f"]) for item in answered}
        return [scores[n] for n in references]

    def _equip(self, folder: Path) -> None:
        installed = package()
        assert installed is not None, "checked at construction"
        shutil.copy(installed / "spice" / "spice-1.0.jar", folder)
        (folder / "lib").mkdir()
        for jar in (*(installed / "spice" / "lib").glob("*.jar"), *self.jars):
            (folder / "lib" / jar.name).symlink_to(jar)
