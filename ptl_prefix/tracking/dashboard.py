"""A W&B workspace that compares methods. The only file that imports `wandb_workspaces`.

In: a project and the metrics of its runs. Out: the workspace as JSON in the format of W&B's server; or the workspace
and a report with the same panels on the server. Pushing again replaces both.
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
_DESCRIPTION = (
    "Curves are means over the runs of a method; the band spans minimum to maximum. Numbers of parameters (trainable, "
    "or stored in a bundle) are on a logarithmic axis. Parameter importance is W&B's estimate from a random forest "
    "over the shown runs."
)
_COSTS = ("tokens_per_s", "lr", "train/grad_norm", "norm/trained", "norm/keys", "norm/values")
_MAX_RUNS = 100


@dataclass(frozen=True, kw_only=True)
class View:
    """A workspace or report on the server.

    Args:
        id: Server-side id, which is needed to replace the view.
        name: Server-side name, part of a workspace's URL; empty for a report.
        url: URL of the view.
    """

    id: str
    name: str
    url: str


class Dashboard:
    """The panels of a project.

    Args:
        project: W&B project.
        metrics: Quality metrics as `split/name`; parameter importance refers to the first.
    """

    def __init__(self, project: str, metrics: Sequence[str]) -> None:
        self._project, self._metrics = project, tuple(metrics)

    def document(self, entity: str | None) -> dict[str, Any]:
        """Return the workspace in the server's format.

        Args:
            entity: W&B user or team; `None` if it is unknown, because there is no server.
        """
        workspace = self._workspace(entity or "")
        spec = json.loads(workspace._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))
        return {"entity": entity, "project": self._project, "displayName": NAME, "spec": spec}

    def push_workspace(self, entity: str | None, existing: Mapping[str, str]) -> View:
        """Create or replace the workspace on the server.

        Args:
            entity: W&B user or team; `None` uses the default entity of the API key.
            existing: `id` and `name` of the workspace to replace; empty creates a new one.
        """
        workspace = self._workspace(entity or _default_entity())
        workspace._internal_id, workspace._internal_name = existing.get("id", ""), existing.get("name", "")
        _save(workspace.save)
        return View(id=workspace._internal_id, name=workspace._internal_name, url=workspace.url)

    def push_report(self, entity: str | None, existing: Mapping[str, str]) -> View:
        """Create or replace a report with the same panels on the server; see `push_workspace`."""
        wr = _import_reports()
        owner = entity or _default_entity()
        blocks: list[Any] = [wr.P(text=_DESCRIPTION)]
        for title, panels in self._sections().items():
            runs = wr.Runset(entity=owner, project=self._project, name="all runs")
            blocks += [wr.H2(text=title), wr.PanelGrid(runsets=[runs], panels=panels)]
        report = wr.Report(project=self._project, entity=owner, title=NAME, description=_DESCRIPTION, blocks=blocks)
        report.id = existing.get("id", "")
        _save(report.save)
        return View(id=report.id, name="", url=report.url)

    def _workspace(self, entity: str) -> "ws.Workspace":
        _import_reports()  # imports the library without its warnings
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
            settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=_MAX_RUNS),
            runset_settings=ws.RunsetSettings(pinned_columns=list(dict.fromkeys(columns))),
        )

    def _sections(self) -> dict[str, list[Any]]:
        wr = _import_reports()
        return {
            "Curves by method": [_curve(wr, name) for name in ("val/loss", "train/loss")],
            "Quality and size": [
                _quality_over_size(wr, metric, size)
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
        measured = dict.fromkeys(["val/loss", *reversed(self._metrics)])  # the last column colours the lines
        columns += [wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(name)) for name in measured]
        return wr.ParallelCoordinatesPlot(title="settings and results", columns=columns)


def _curve(wr: Any, name: str) -> Any:
    return wr.LinePlot(
        title=name,
        x=STEP,
        y=[name],
        groupby=wr.Config("method"),
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
        max_runs_to_show=_MAX_RUNS,
    )


def _quality_over_size(wr: Any, metric: str, size: str) -> Any:
    return wr.ScatterPlot(
        title=f"{metric} over {size.replace('_', ' ')}",
        x=wr.Config(size),
        y=wr.SummaryMetric(metric),
        log_x=True,
        legend_template="${config:method} ${run:displayName}",
    )


def _import_reports() -> Any:
    """Import the library's report classes, without the deprecation warnings of the import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces  # noqa: F401
    return wr


def _default_entity() -> str:
    entity = (query_server("query Viewer { viewer { id entity } }", {}).get("viewer") or {}).get("entity")
    if not entity:
        raise RunError(
            "A dashboard needs a user or team, but W&B's server returned none for the API key; set entity=<name>."
        )
    return str(entity)


def _save(save: Callable[[], Any]) -> None:
    try:
        save()
    except Exception as error:  # the client raises errors of many types
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise RunError(f"W&B's server must accept the dashboard, but did not ({reason}); try again later.") from error
