"""W&B's workspace that compares methods. The only file that knows wandb-workspaces.

In: a project and the metrics that runs were measured by. Out: the workspace as JSON, as W&B's server takes it; or,
pushed there, the workspace and a report with the same panels. What is pushed again replaces what was there.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ptl_prefix.errors import RunError
from ptl_prefix.tracking.wandb_sink import STEP, query_server

if TYPE_CHECKING:
    import wandb_workspaces.workspaces as ws

NAME = "Methods compared"
_WORDS = (
    "Curves are means over the runs of a method, the band goes from the least to the most. Parameters are on a log "
    "axis: those that were trained, and those that a bundle stores. How much a setting matters is W&B's estimate, from "
    "a random forest over the runs shown."
)
_COSTS = ("tokens_per_s", "lr", "train/grad_norm", "norm/trained", "norm/keys", "norm/values")
_RUNS_SHOWN = 100


@dataclass(frozen=True, kw_only=True)
class View:
    """What a server keeps by a name of its own.

    Args:
        id: By which it is replaced.
        name: Part of its address, for a workspace.
        url: Where a person finds it.
    """

    id: str
    name: str
    url: str


class Dashboard:
    """The panels of a project.

    Args:
        project: W&B's project.
        metrics: What says how good a run is, as `split/name`; the first is what settings are judged by.
    """

    def __init__(self, project: str, metrics: Sequence[str]) -> None:
        self._project, self._metrics = project, tuple(metrics)

    def document(self, entity: str | None) -> dict[str, Any]:
        """The workspace as the server takes it.

        Args:
            entity: W&B's user or team; `None`: not known without a server.
        """
        workspace = self._workspace(entity or "")
        spec = json.loads(workspace._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))
        return {"entity": entity, "project": self._project, "displayName": NAME, "spec": spec}

    def push_workspace(self, entity: str | None, known: Mapping[str, str]) -> View:
        """Put the workspace on the server.

        Args:
            entity: W&B's user or team; `None`: the key's own.
            known: The workspace of before, which is replaced; empty if there is none.
        """
        workspace = self._workspace(entity or _own_entity())
        workspace._internal_id, workspace._internal_name = known.get("id", ""), known.get("name", "")
        _saved(workspace.save)
        return View(id=workspace._internal_id, name=workspace._internal_name, url=workspace.url)

    def push_report(self, entity: str | None, known: Mapping[str, str]) -> View:
        """Put a report with the same panels on the server; see `push_workspace`."""
        wr = _reports()
        owner = entity or _own_entity()
        blocks: list[Any] = [wr.P(text=_WORDS)]
        for title, panels in self._sections().items():
            runs = wr.Runset(entity=owner, project=self._project, name="all runs")
            blocks += [wr.H2(text=title), wr.PanelGrid(runsets=[runs], panels=panels)]
        report = wr.Report(project=self._project, entity=owner, title=NAME, description=_WORDS, blocks=blocks)
        report.id = known.get("id", "")
        _saved(report.save)
        return View(id=report.id, name="", url=report.url)

    def _workspace(self, entity: str) -> "ws.Workspace":
        _reports()  # in whose presence the next import warns of nothing
        import wandb_workspaces.workspaces as ws

        columns = [
            "config:method.value",
            "config:prefix_length.value",
            "config:reparam.value",
            "config:seed.value",
            "config:parameters_trained.value",
            "config:parameters_stored.value",
            *(f"summary:{metric}" for metric in self._metrics),
            "summary:val/loss",
        ]
        return ws.Workspace(
            entity=entity,
            project=self._project,
            name=NAME,
            auto_generate_panels=True,
            sections=[
                ws.Section(name=title, panels=panels, is_open=True) for title, panels in self._sections().items()
            ],
            settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=_RUNS_SHOWN),
            runset_settings=ws.RunsetSettings(pinned_columns=list(dict.fromkeys(columns))),
        )

    def _sections(self) -> dict[str, list[Any]]:
        wr = _reports()
        return {
            "Curves by method": [_curve(wr, name) for name in ("val/loss", "train/loss")],
            "Quality and size": [
                _beside_size(wr, metric, size)
                for metric in dict.fromkeys([*self._metrics, "val/loss"])
                for size in ("parameters_trained", "parameters_stored")
            ],
            "Settings": [self._coordinates(wr), wr.ParameterImportancePlot(with_respect_to=self._metrics[0])],
            "Runs": [wr.RunComparer(diff_only="split"), wr.WeavePanelSummaryTable(table_name="samples")],
            "Cost and norms": [_curve(wr, name) for name in _COSTS],
        }

    def _coordinates(self, wr: Any) -> Any:
        settings = {"method": False, "prefix_length": False, "reparam": False, "learning_rate": True}
        settings |= {"parameters_trained": True}
        columns = [wr.ParallelCoordinatesPlotColumn(metric=wr.Config(name), log=log) for name, log in settings.items()]
        measured = dict.fromkeys(["val/loss", *reversed(self._metrics)])  # the last one colours the lines
        columns += [wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(name)) for name in measured]
        return wr.ParallelCoordinatesPlot(title="settings and what came of them", columns=columns)


def _curve(wr: Any, name: str) -> Any:
    return wr.LinePlot(
        title=name,
        x=STEP,
        y=[name],
        groupby=wr.Config("method"),
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
        max_runs_to_show=_RUNS_SHOWN,
    )


def _beside_size(wr: Any, metric: str, size: str) -> Any:
    return wr.ScatterPlot(
        title=f"{metric} over {size.replace('_', ' ')}",
        x=wr.Config(size),
        y=wr.SummaryMetric(metric),
        log_x=True,
        legend_template="${config:method} ${run:displayName}",
    )


def _reports() -> Any:
    """The library's words for panels. It warns of its own age when it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces  # noqa: F401
    return wr


def _own_entity() -> str:
    entity = (query_server("query Viewer { viewer { id entity } }", {}).get("viewer") or {}).get("entity")
    if not entity:
        raise RunError("A dashboard must belong to a user or team, but W&B's server names none; give entity=<name>.")
    return str(entity)


def _saved(save: Callable[[], Any]) -> None:
    try:
        save()
    except Exception as error:  # whatever the client raises where a server does not take something
        fact = f"{type(error).__name__}: {error}".splitlines()[0]
        raise RunError(f"W&B's server must take the dashboard, but did not ({fact}); try again later.") from error
