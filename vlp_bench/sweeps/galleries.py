"""Which runs of a study a gallery sets side by side, and their test examples."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vlp_bench.results.report.answers import Answers, Examples
    from vlp_bench.results.report.material import Study
    from vlp_bench.results.report.page import Gallery

CURE = "files=FOLDER allows what is below it"


def galleries(study: "Study", baseline: str, count: int, folders: "Sequence[Path]") -> "list[Gallery]":
    """Dense against the best pruner and against the baseline, at the middle sparsity and the first seed, both ways.

    Args:
        count: examples in each.
        folders: those whose files the runs' rows may name.

    Raises:
        ValueError: the data are no longer those of the runs, a file of theirs is broken, or lies elsewhere.
        OSError: images that have gone.
    """
    from vlp_bench.results.report.gallery import exhibits
    from vlp_bench.results.report.page import Gallery

    level = study.sparsities[len(study.sparsities) // 2] if study.sparsities else 0.0
    runs = {pruner: run for pruner, run in _runs_at(study, level).items() if study.examples(run)}
    if "dense" not in runs or len(runs) < 2:
        return []
    examples = _examples(study, runs["dense"], folders)
    given = {p: a for p, run in runs.items() if (a := examples.answers(study.examples(run), study.folders[run]))}
    if "dense" not in given:
        return []
    found = []
    for pruner in _worth_showing(given, study.called(baseline)):
        names = {"dense": "dense", pruner: f"{pruner} at {100 * level:g} %"}
        for first, second in (("dense", pruner), (pruner, "dense")):
            shown = exhibits(examples, given[first], given[second], count=count)
            found.append(Gallery(names[first], names[second], shown, graded=given[first].least is not None))
    return found


def _runs_at(study: "Study", sparsity: float) -> dict[str, str]:
    """Pruner -> its run, of the first seed."""
    frame = study.frame
    keep = frame["status"].eq("ok") & frame["seed"].eq(study.seeds[0]) & frame["sparsity"].isin([0.0, sparsity])
    return dict(zip(frame.loc[keep, "pruner"], frame.loc[keep, "run"], strict=True))


def _worth_showing(given: "dict[str, Answers]", baseline: str | None) -> list[str]:
    """The pruner that has most right, and the baseline."""
    good = {
        name: float(a.value.mean() if a.least is None else (a.value >= a.least).mean())
        for name, a in given.items()
        if name != "dense"
    }
    best = sorted(good, key=lambda name: -good[name])[:1]
    return list(dict.fromkeys([*best, *([baseline] if baseline in good else [])]))


def _examples(study: "Study", run: str, folders: "Sequence[Path]") -> "Examples":
    """The test examples, if they are still those the run saw."""
    from vlp_bench.construct import construct
    from vlp_bench.results.named_files import confined
    from vlp_bench.results.report.answers import examples_of

    origin = study.origin[run]
    data: Any = construct(confined(origin["config"].get("data"), folders, "data", CURE), "data")
    if data.fingerprint() != origin["data"]:
        raise ValueError("the data have changed since the runs were made")
    return examples_of(data)
