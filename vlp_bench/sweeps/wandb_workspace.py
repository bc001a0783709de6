"""The dashboard of a study: which panels over which stored keys, as plain data, and as a saved view of W&B.

The definition is stored as JSON beside the study's tables, whoever reads it: a list of sections, each
`{"name": ..., "panels": [{"kind": ..., "title": ..., "keys": [...]}, ...]}`. Kinds: `line` (keys over steps, a line a
group), `bar` (means over the runs of a group), `scatter` (the first key across, the second up), `table` and `media`
(of the study's own run). With the extra `dashboards` a sync with `online=true` saves it as a workspace of the project.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlp_bench.runs.checkpointing import write_whole
from vlp_bench.runs.terminal.errors import UserError

if TYPE_CHECKING:
    from vlp_bench.results.report.page import Chapter


@dataclass(frozen=True)
class Panel:
    """One picture of some keys of history, summary or tables."""

    kind: str
    title: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """Panels under one heading."""

    name: str
    panels: tuple[Panel, ...]


def sections(chapter: "Chapter", history: Sequence[str]) -> list[Section]:
    """The panels of a study; none over a key that its runs do not have.

    Args:
        history: keys of the curves of its runs.
    """
    study = chapter.study
    metrics = [f"test/{name}" for name in study.metrics]
    measured = set(study.frame.loc[study.frame["split"].eq("mask"), "metric"])
    costs = [f"mask/{name}" for name in ("seconds", "shared_seconds", "peak_gb") if name in measured]
    tables = ["cells", *(trial.title for trial in chapter.trials)]
    found = [
        Section("Test, mean over seeds", tuple(Panel("bar", name, (name,)) for name in metrics)),
        Section(
            "Cost and quality", tuple(Panel("scatter", f"{m} against {c}", (c, m)) for c in costs for m in metrics)
        ),
        Section("Training", tuple(Panel("line", name, (name,)) for name in history)),
        Section("Report", (Panel("media", "Page", ("report",)), *(Panel("table", name, (name,)) for name in tables))),
    ]
    return [section for section in found if section.panels]


def definition(chapter: "Chapter", history: Sequence[str]) -> str:
    """The sections as JSON."""
    study = chapter.study
    whole = {
        "name": f"{study.exp} {study.benchmark} {study.key}",  # W&B refuses symbols, "=" among them
        "sections": [asdict(section) for section in sections(chapter, history)],
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def workspace(content: str, entity: str, project: str) -> Any:
    """The definition as a workspace object of W&B's own package.

    Raises:
        UserError: that package is not installed.
    """
    try:
        import wandb_workspaces.workspaces as ws  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError("a saved workspace needs: pip install 'vlp_bench[dashboards]'") from None
    whole = json.loads(content)
    made = [ws.Section(s["name"], panels=[_panel(p) for p in s["panels"]], is_open=True) for s in whole["sections"]]
    return ws.Workspace(entity=entity, project=project, name=whole["name"], sections=made)


def _panel(panel: dict[str, Any]) -> Any:
    import wandb_workspaces.reports.v2 as wr  # pyright: ignore[reportMissingImports]

    title, (first, *rest) = panel["title"], panel["keys"]
    match panel["kind"]:
        case "line":
            return wr.LinePlot(title=title, x="Step", y=[first], groupby="Group", groupby_aggfunc="mean")
        case "bar":
            return wr.BarPlot(title=title, metrics=[first], groupby="Group", groupby_aggfunc="mean")
        case "scatter":
            return wr.ScatterPlot(title=title, x=wr.SummaryMetric(first), y=wr.SummaryMetric(rest[0]), log_x=True)
        case "media":
            return wr.MediaBrowser(title=title, media_keys=[first])
        case kind:
            assert kind == "table", f"panels have no kind {kind}"
            return wr.WeavePanelSummaryTable(table_name=first)


def save(content: str, entity: str, project: str, file: Path) -> str:
    """Save the workspace online and its definition and address in `file`; a later call changes the same workspace.

    Raises:
        UserError: W&B's package for workspaces is not installed.
    """
    made = workspace(content, entity, project)
    if file.is_file() and (address := json.loads(file.read_text(encoding="utf-8")).get("url")):
        saved = type(made).from_url(address)
        saved.name, saved.sections = made.name, made.sections
        made = saved
    made.save()
    write_whole(file, json.dumps(json.loads(content) | {"url": made.url}, indent=1, ensure_ascii=False).encode())
    return made.url
