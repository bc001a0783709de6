"""How captions are cut into words before they are compared: Stanford's PTB tokeniser, or a stand-in without Java."""

import re
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from shutil import which

from vlp_bench.lifetime import bound

TOKENISERS = ("ptb", "regex")
MISSING = "pycocoevalcap is not installed; pip install 'vlp_bench[caption]'"
_JAR = "tokenizer/stanford-corenlp-3.4.1.jar"
_DROPPED = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)
_WORD = re.compile(
    r"(?:[a-z]\.){2,}|\d+(?::\d+)+|[a-z0-9]+(?:[-/][a-z0-9]+)*(?=n't\b)|n't\b|'(?:s|re|ve|ll|d|m)\b"
    r"|[a-z0-9]+(?:[-/.,][a-z0-9]+)*"
)


def package() -> Path | None:
    """The folder of pycocoevalcap, which brings the jars; None where it is not installed."""
    spec = find_spec("pycocoevalcap")
    places = list(spec.submodule_search_locations or []) if spec is not None else []
    return Path(places[0]) if places else None


def java() -> str | None:
    """The Java program; None where there is none."""
    return which("java")


def no_java(what: str) -> str:
    """Why `what` cannot be had and how to mend it."""
    return f"{what} needs Java, and there is no 'java' on the PATH: install one (Debian: default-jre-headless)"


def ptb(texts: Sequence[str]) -> list[str]:
    """Lower-case words of each text, joined by spaces, punctuation dropped, as the COCO caption evaluation cuts them.

    Raises:
        ValueError: Java or pycocoevalcap is missing, or the tokeniser fails.
    """
    folder, program = package(), java()
    if folder is None or program is None:
        raise ValueError(f"the PTB tokeniser cannot run: {MISSING if folder is None else no_java('it')}")
    command = [program, "-cp", str(folder / _JAR), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines"]
    lines = [" ".join(text.split()) for text in texts]  # one text, one line, whatever breaks lines in Java's eyes
    text = "\n".join(lines).encode()
    done = subprocess.run([*command, "-lowerCase"], input=text, capture_output=True, check=False, preexec_fn=bound())
    cut = done.stdout.decode().split("\n")[: len(lines)]
    if done.returncode or len(cut) != len(lines):
        raise ValueError(f"the PTB tokeniser failed on {len(lines)} texts: {done.stderr.decode()[-300:]}")
    return [_kept(line.split(" ")) for line in cut]


def regex(texts: Sequence[str]) -> list[str]:
    """The same without Java, for development: it differs where brackets, "$", "cannot" or curly quotes occur.

    On plain machine captions of COCO both agree; numbers made with it are labelled.
    """
    return [_kept(_WORD.findall(text.lower())) for text in texts]


def _kept(words: Sequence[str]) -> str:
    return " ".join(word for word in words if word and word not in _DROPPED)
