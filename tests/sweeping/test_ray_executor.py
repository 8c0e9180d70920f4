"""A Ray cluster that cannot be reached; `tests/pipeline/test_sweep_ray.py` has real ones."""

import importlib.util

import pytest

from ptl_prefix.errors import SweepError
from ptl_prefix.sweeping.ray_executor import RayExecutor


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'ptl-prefix[ray]'")
def test_a_cluster_that_is_not_there_is_named_at_once_with_the_way_out() -> None:
    with pytest.raises(SweepError) as refusal:
        RayExecutor(object, {}, address="127.0.0.1:9", num_cpus=1.0, num_gpus=0.0, notify=lambda _: None)

    sentence = str(refusal.value)
    assert "The Ray cluster of `hydra.sweeper.ray_address` must be reachable, but '127.0.0.1:9' is not" in sentence
    assert "`ray start --head`" in sentence
