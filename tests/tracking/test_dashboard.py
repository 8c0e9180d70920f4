"""The W&B workspace, with W&B's own libraries and a local server."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.fake_wandb_server import FakeWandb, wandb_at_fake_server

from ptl_prefix.errors import RunError
from ptl_prefix.tracking.dashboard import NAME, Dashboard
from ptl_prefix.tracking.wandb_sink import STEP


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWandb]:
    with wandb_at_fake_server(monkeypatch) as fake:
        yield fake


def panels_of(spec: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    sections = spec["section"]["panelBankConfig"]["sections"]
    return [(panel["viewType"], panel["config"]) for section in sections for panel in section["panels"]]


def configs_of(spec: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [config for view_type, config in panels_of(spec) if view_type == kind]


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    """A workspace that was built without a server."""
    document = Dashboard("p", ["test/bleu"]).document(None)
    assert (document["project"], document["displayName"], document["entity"]) == ("p", NAME, None)
    return json.loads(json.dumps(document))["spec"]


def test_curves_are_over_steps_of_training_and_grouped_by_method(spec: dict[str, Any]) -> None:
    curves = {config["metrics"][0]: config for config in configs_of(spec, "Run History Line Plot")}

    assert {"val/loss", "train/loss"} <= curves.keys()
    for config in curves.values():
        assert (config["xAxis"], config["groupBy"], config["groupAgg"]) == (STEP, "method.value", "mean")


def test_quality_is_plotted_over_trainable_and_stored_parameters_on_a_log_axis(spec: dict[str, Any]) -> None:
    clouds = configs_of(spec, "Scatter Plot")

    drawn = {(config["xAxis"], config["yAxis"]) for config in clouds}
    assert ("config:parameters_trained.value", "summary:test/bleu") in drawn
    assert ("config:parameters_stored.value", "summary:val/loss") in drawn
    assert all(config["xAxisLogScale"] for config in clouds)


def test_settings_are_parallel_coordinates_with_importance_for_the_metric(spec: dict[str, Any]) -> None:
    (coordinates,) = configs_of(spec, "Parallel Coordinates Plot")
    columns = [column["accessor"] for column in coordinates["columns"]]

    assert {"config:prefix_length.value", "config:reparam.value", "config:learning_rate.value"} <= set(columns)
    assert columns[-2:] == ["summary:val/loss", "summary:test/bleu"]
    (importance,) = configs_of(spec, "Parameter Importance")
    assert importance["targetKey"] == "test/bleu"


def test_runs_are_laid_side_by_side_and_the_table_of_samples_is_shown(spec: dict[str, Any]) -> None:
    assert len(configs_of(spec, "Run Comparer")) == 1
    assert "samples" in str(configs_of(spec, "Weave"))
    (runs,) = spec["section"]["runSets"]
    assert {"config:method.value", "summary:test/bleu"} <= runs["runFeed"]["columnPinned"].keys()


def test_a_workspace_and_a_report_reach_the_server_and_are_replaced_the_next_time(server: FakeWandb) -> None:
    dashboard = Dashboard("p", ["test/bleu"])

    workspace = dashboard.push_workspace(None, {})
    report = dashboard.push_report("someone", {})
    again = dashboard.push_workspace("someone", {"id": workspace.id, "name": workspace.name})
    dashboard.push_report("someone", {"id": report.id})

    assert [view["type"] for view in server.views] == ["project-view", "runs", "project-view", "runs"]
    assert [view.get("id") for view in server.views] == [None, None, workspace.id, report.id]
    assert server.views[0]["name"] == server.views[2]["name"]
    assert {(view["entityName"], view["projectName"]) for view in server.views} == {("someone", "p")}
    assert again.url == workspace.url and workspace.url.startswith(f"{server.url}/someone/p?nw=")
    assert report.url.startswith(f"{server.url}/someone/p/reports/")
    assert panels_of(json.loads(server.views[0]["spec"]))
    blocks = json.loads(server.views[1]["spec"])["blocks"]
    kinds = [
        panel["viewType"]
        for block in blocks
        for panel in block.get("metadata", {}).get("panelBankSectionConfig", {}).get("panels", [])
    ]
    assert {"Run History Line Plot", "Scatter Plot", "Parameter Importance", "Run Comparer"} <= set(kinds)
    assert server.unknown == []


def test_a_server_that_rejects_views_is_an_error_with_its_reason(server: FakeWandb) -> None:
    server.refuses = ("UpsertView2",)

    with pytest.raises(RunError, match="must accept the dashboard, but did not"):
        Dashboard("p", ["val/loss"]).push_workspace("someone", {})
