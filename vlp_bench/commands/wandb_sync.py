"""Send stored results to Weights & Biases, or write them offline.

The same numbers, tables and figures as the report.

    vlp-bench sync                    # offline files under outputs/wandb_sync; no account
    vlp-bench sync online=true project=vlp_bench entity=TEAM

One W&B run per stored run (grouped over seeds, with its curves, test metrics and configuration), and one per study with
its tables, the report page as a panel, and masks, report files and the definition of a dashboard as artifacts. Ids are
those of our runs: a second call goes on with the same W&B runs instead of adding others. Offline files are sent later
with `wandb sync FOLDER`. Online, with the extra `dashboards` (pip install 'vlp_bench[dashboards]'), every study's
dashboard becomes a saved workspace of the project.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlp_bench.commands.report import Request as ReportRequest
from vlp_bench.commands.report import chapters, contents
from vlp_bench.runs.terminal.console import console, stderr, warn
from vlp_bench.runs.terminal.errors import UserError
from vlp_bench.runs.terminal.key_value import perform
from vlp_bench.sweeps.wandb_workspace import definition, save

if TYPE_CHECKING:
    from vlp_bench.results.report.material import Study
    from vlp_bench.results.report.page import Chapter


WORKSPACE = "workspace.json"  # among the report's files


@dataclass(frozen=True)
class Request:
    """Which results go where."""

    out: str = "outputs"
    project: str = "vlp_bench"
    entity: str = ""
    online: bool = False
    exp: str = ""
    baseline: str = "omp"


def main() -> None:
    """Send, or write offline, what is stored."""
    perform(Request, sync, __doc__)


def sync(request: Request) -> int:
    """Write every stored run and a summary of every study; returns how many W&B runs that were.

    Raises:
        UserError: nothing is stored, or Weights & Biases cannot be reached.
    """
    wanted = ReportRequest(request.out, exp=request.exp, baseline=request.baseline)
    found = chapters(wanted)
    count = 0
    for chapter in found:
        for run in chapter.study.origin:
            if (given := _settings(chapter.study, run)) is None:
                continue
            _send(request, given, lambda wb, s=chapter.study, r=run: _log_run(wb, s, r))
            count += 1
        page = contents(wanted, [chapter]) | {WORKSPACE: definition(chapter, _curves(chapter.study))}
        _send(request, study_settings(chapter), lambda wb, c=chapter, p=page: _log_study(wb, c, p, request))
        count += 1
    where = f"in project {request.project}" if request.online else f"as offline files in {folder(request)}"
    console.print(f"{count} W&B runs {where}", soft_wrap=True)
    return count


def folder(request: Request) -> Path:
    """Where W&B's own files lie."""
    return Path(request.out) / "wandb_sync"


def settings(study: "Study", run: str) -> dict[str, Any]:
    """What W&B calls a run: id, name, group over seeds, job type, configuration, tags."""
    from vlp_bench.runs.tracking import labels

    origin = study.origin[run]
    row = study.frame.loc[study.frame["run"] == run, :].iloc[0]
    tags = [study.benchmark, study.exp, str(row["pruner"])[:64]]
    return labels(study.folders[run], origin["config"]) | {"id": run, "config": origin["config"], "tags": tags}


def _settings(study: "Study", run: str) -> dict[str, Any] | None:
    """The same; None, with a word about it, where the stored configuration lacks what a name is made of."""
    try:
        return settings(study, run)
    except (KeyError, TypeError, ValueError) as error:
        warn([f"{study.folders[run]}: its configuration is not one of a run ({error!r}); it is left out"])
        return None


def study_settings(chapter: "Chapter") -> dict[str, Any]:
    """The run that holds a study's tables and page."""
    study = chapter.study
    name = f"study-{study.exp}-{study.benchmark}-{study.key}"
    return {"id": name, "name": name, "group": "studies", "job_type": "report", "config": {"runs": list(study.origin)},
            "tags": [study.benchmark, study.exp]}  # fmt: skip


def _send(request: Request, given: dict[str, Any], log: Any) -> None:
    import wandb
    from wandb.errors import Error

    folder(request).mkdir(parents=True, exist_ok=True)
    try:
        run = wandb.init(
            project=request.project, entity=request.entity or None, dir=str(folder(request)), resume="allow",
            mode="online" if request.online else "offline", settings=wandb.Settings(silent=True), **given,
        )  # fmt: skip
    except Error as error:
        raise UserError(
            f"Weights & Biases refuses ({error}); without online=true everything is written offline"
        ) from error
    try:
        log(run)
    finally:
        run.finish()


def _log_run(wb: Any, study: "Study", run: str) -> None:
    for step, values in history(study, run):
        wb.log(values, step=step)
    wb.summary.update(summary(study, run))


def history(study: "Study", run: str) -> Iterator[tuple[int, dict[str, float]]]:
    """(step, training and validation values) of a run's curves; several lines of one step become one."""
    curves = study.curves(run)
    if curves.empty:
        return
    names = [name for name in curves.columns if name.startswith(("train/", "val/"))]
    for step, part in curves.groupby("step"):
        values = {name: float(seen.iloc[-1]) for name in names if len(seen := part[name].dropna())}
        if values:
            yield int(str(step)), values


def summary(study: "Study", run: str) -> dict[str, Any]:
    """'split/metric' -> number, and where the run came from."""
    rows = study.frame.loc[study.frame["run"] == run, :].to_dict("records")
    origin = {key: value for key, value in study.origin[run].items() if key not in ("config", "versions")}
    numbers = {f"{r['split']}/{r['metric']}": r["value"] for r in rows if r["status"] == "ok"}
    return numbers | {"status": rows[0]["status"], "message": rows[0]["message"], "origin": origin}


def _log_study(wb: Any, chapter: "Chapter", page: dict[str, str], request: Request) -> None:
    import wandb

    wb.log({"cells": wandb.Table(dataframe=chapter.summary), "report": wandb.Html(page["index.html"], inject=False)})
    for trial in chapter.trials:
        head, *rows = trial.rows
        wb.log({trial.title: wandb.Table(columns=list(head), data=[list(row) for row in rows])})
    if request.online:
        _save_workspace(wb, chapter, page[WORKSPACE], request)
    report = wandb.Artifact(f"report-{chapter.study.key}", type="report")
    for name, text in page.items():
        with report.new_file(name, mode="w", encoding="utf-8") as file:
            file.write(text)
    wb.log_artifact(report)
    if masks := [mask.file for mask in chapter.study.masks if mask.file is not None]:
        stored = wandb.Artifact(f"masks-{chapter.study.key}", type="masks")
        for file in masks:
            stored.add_file(os.fspath(file))
        wb.log_artifact(stored)


def _curves(study: "Study") -> list[str]:
    """The keys of the history of its runs, in the order of their first line."""
    return list(dict.fromkeys(key for run in study.origin for _, values in history(study, run) for key in values))


def _save_workspace(wb: Any, chapter: "Chapter", content: str, request: Request) -> None:
    """Save the dashboard; without the package for it, or where W&B refuses, a line says so and nothing else is lost."""
    file = folder(request) / f"workspace-{chapter.study.key}.json"
    try:
        console.print(f"workspace: {save(content, wb.entity, wb.project, file)}", soft_wrap=True)
    except Exception as error:
        stderr.print(f"no workspace was saved: {error}", style="yellow", markup=False)


if __name__ == "__main__":
    main()
