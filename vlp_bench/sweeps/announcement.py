"""What is said before many runs begin: how many there are, and how long they will take."""

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from vlp_bench.spelling import count_of

if TYPE_CHECKING:
    from vlp_bench.runs.specification import Specification

HOURS = 120  # minutes from which on a time is said in hours


def announcement(cells: "Sequence[Specification]", todo: "Sequence[Specification]", workers: int) -> str:
    """How many of some runs are stored, and how long the others take, by stored or else by recorded runs like them."""
    text = (
        f"{count_of(len(cells), 'run')}: {len(cells) - len(todo)} stored already, {len(todo)} to compute with "
        f"{count_of(workers, 'process', 'processes')}"
    )
    if not todo:
        return text
    told = ""
    if not (seconds := _stored(cells)):
        seconds, told = _recorded(todo), "recorded "
    if not seconds:
        return text if todo[0].config["rehearse"] else f"{text}; how long is not known, no run like them is stored"
    minutes = median(seconds) * len(todo) / workers / 60
    time = f"{minutes / 60:.1f} h" if minutes >= HOURS else f"{minutes:.0f} min"
    runs = count_of(len(seconds), f"{told or 'stored '}run")
    return f"{text}; about {time}, by the median of {runs}{' on other processors' if told else ''}"


def _stored(cells: "Sequence[Specification]") -> list[float]:
    """Seconds of the stored runs of the same experiments and benchmarks."""
    from vlp_bench.results.store import Store

    frame = Store(cells[0].out / "runs").query()
    names = {(cell.config["experiment"], cell.benchmark) for cell in cells}
    like = frame.loc[[pair in names for pair in zip(frame["exp"], frame["benchmark"], strict=True)], :]
    return like.drop_duplicates("run")["seconds"].tolist()


def _recorded(cells: "Sequence[Specification]") -> list[float]:
    """Seconds of the shipped rows of the same experiments and weights; none of rehearsals."""
    from vlp_bench.results.recorded import recorded

    wanted = {(c.config["experiment"], c.weights, c.benchmark) for c in cells if not c.config["rehearse"]}
    frames = [frame for key in sorted(wanted, key=str) if not (frame := recorded(*key)).empty]
    return [value for frame in frames for value in frame.drop_duplicates("run")["seconds"].tolist()]
