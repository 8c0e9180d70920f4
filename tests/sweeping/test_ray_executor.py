"""What is asked of a Ray cluster, and one that cannot be reached; `tests/pipeline/test_sweep_ray.py` has real ones."""

import importlib.util
from typing import Any

import pytest

from ptl_prefix.errors import SweepError
from ptl_prefix.sweeping import ray_executor
from ptl_prefix.sweeping.ray_executor import RayExecutor

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'ptl-prefix[ray]'"
)


def test_a_cluster_that_is_not_there_is_named_at_once_with_the_way_out() -> None:
    with pytest.raises(SweepError) as refusal:
        RayExecutor(object, {}, address="127.0.0.1:9", num_cpus=1.0, num_gpus=0.0, notify=lambda _: None)

    sentence = str(refusal.value)
    assert "The Ray cluster of `hydra.sweeper.ray_address` must be reachable, but '127.0.0.1:9' is not" in sentence
    assert "`ray start --head`" in sentence


@pytest.mark.parametrize(
    ("node", "waits"),
    [
        ({"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}}, False),
        ({"Alive": False, "Resources": {"CPU": 8.0, "GPU": 1.0}}, True),
        ({"Alive": True, "Resources": {"CPU": 8.0}}, True),
        ({"Alive": True, "Resources": {"CPU": 1.0, "GPU": 1.0}}, True),
    ],
)
def test_workers_ask_for_their_cpus_and_gpus_and_it_is_told_if_no_living_node_has_them(
    monkeypatch: pytest.MonkeyPatch, node: dict[str, Any], waits: bool
) -> None:
    class Actor:
        def __init__(self, _: type) -> None:
            pass

        def options(self, **options: Any) -> None:
            asked.update(options)

    asked: dict[str, Any] = {}
    lines: list[str] = []
    monkeypatch.setattr(ray_executor, "_connect", lambda _: None)
    monkeypatch.setattr("ray.nodes", lambda: [node])
    monkeypatch.setattr("ray.remote", Actor)

    RayExecutor(object, {}, address="auto", num_cpus=2.0, num_gpus=0.5, notify=lines.append)

    assert (asked["num_cpus"], asked["num_gpus"]) == (2.0, 0.5)
    assert asked["max_restarts"] == 0, "the pool starts a lost worker again"
    assert [line.split(";")[0] for line in lines] == (
        ["No node of the Ray cluster has 2 CPUs and 0.5 GPUs now"] if waits else []
    )
