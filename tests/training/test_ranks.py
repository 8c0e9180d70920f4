"""What ranks tell each other, over gloo."""

import time
from pathlib import Path
from typing import Any

import pytest
from support import rank_bodies
from support.among_ranks import RankFailedError, among_ranks, ends_of_ranks
from support.tiny_runs import TinyRuns

from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.data.rank_share import RankShare
from ptl_prefix.training.rank_environment import RankEnvironment, find_rank_environment, is_nonzero_rank
from ptl_prefix.training.ranks import ONE_RANK


def test_collective_operations_give_every_rank_the_same() -> None:
    heard = among_ranks(3, rank_bodies.collective_results)

    assert (
        heard
        == [
            {
                "sum": [3.0, 1.5],
                "max": 2,
                "gather": [{"rank": 0}, {"rank": 1}, {"rank": 2}],
                "from_rank_zero": "said by 0",
                "merge": {0: "by 0", 1: "by 1", 2: "by 2"},
                "copied": [0.0, 0.0],
            }
        ]
        * 3
    )


def test_a_single_rank_gets_its_own_values() -> None:
    assert rank_bodies.collective_results(ONE_RANK) == {
        "sum": [0, 0.5],
        "max": 0,
        "gather": [{"rank": 0}],
        "from_rank_zero": "said by 0",
        "merge": {0: "by 0"},
        "copied": [0.0, 0.0],
    }


def test_gradients_are_summed_and_one_that_no_rank_has_stays_none() -> None:
    sums = among_ranks(2, rank_bodies.summed_gradients, [[1.0, None, None, 0.0], [10.0, 20.0, None, 0.0]])

    assert sums == [[[11.0, 11.0], [20.0, 20.0], None, [0.0, 0.0]]] * 2


def test_ranks_with_different_configs_are_stopped_with_the_settings_named() -> None:
    configs: list[dict[str, Any]] = [{"seed": 0, "optimizer": {"lr": lr, "betas": [0.9]}} for lr in (0.1, 0.1, 0.2)]

    sentences = among_ranks(3, rank_bodies.require_same_config, configs)

    assert (
        sentences
        == [
            "RunError: All ranks must have the same config, but theirs differ in optimizer.lr; "
            "start all of them with the same arguments."
        ]
        * 3
    )


def test_ranks_with_the_same_config_continue() -> None:
    configs = [{"seed": 0, "a": 1}, {"a": 1, "seed": 0}]

    assert among_ranks(2, rank_bodies.require_same_config, configs) == ["agreed", "agreed"]


def test_other_ranks_find_the_files_of_rank_zero(tmp_path: Path) -> None:
    assert among_ranks(3, rank_bodies.in_turn, tmp_path) == [False, True, True]


def test_the_exit_of_a_rank_is_noticed_at_once() -> None:
    began = time.monotonic()

    first, second, dead = ends_of_ranks(3, rank_bodies.lost_rank)

    assert time.monotonic() - began < 30
    assert isinstance(dead, RankFailedError)
    assert all("RankError: Another rank exited" in str(end) for end in (first, second))


def test_a_step_sends_gradients_and_a_few_numbers(tmp_path: Path, tiny_runs: TinyRuns) -> None:
    steps, changes = 5, {"trainer__devices": 2, "trainer__max_steps": 5}

    (sent, trained_bytes), _ = among_ranks(2, rank_bodies.bytes_of_a_run, tiny_runs, tmp_path / "run", changes)

    stated = next(event for event in read_events(tmp_path / "run/events.jsonl") if event["kind"] == "attached")
    assert stated["num_ranks"] == 2
    per_step = stated["synchronised_bytes_per_step"]
    # Of each gradient also whether there is one.
    assert trained_bytes < per_step < 1.05 * trained_bytes
    sums = sent["allreduce_"]
    assert sums.count(per_step) == steps
    assert max(size for size in sums if size != per_step) <= 16
    # What is trained is made the first rank's twice: at the start, and when the best checkpoint is read.
    assert trained_bytes * 2 <= sum(sent["broadcast_"]) < trained_bytes * 2 + 1000
    backbone = tiny_runs.backbone().num_bytes
    assert sum(map(sum, sent.values())) < steps * per_step + backbone, "the backbone was sent"


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, None),
        ({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, RankEnvironment(share=RankShare(1, 4), local_rank=1)),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, None),
        (
            {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"},
            RankEnvironment(share=RankShare(5, 8), local_rank=1, is_slurm=True),
        ),
        # A batch script, which is no step of its job.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}, None),
        # torchrun, started once on each machine by Slurm.
        (
            {
                "RANK": "3",
                "WORLD_SIZE": "4",
                "LOCAL_RANK": "1",
                "SLURM_PROCID": "1",
                "SLURM_STEP_NUM_TASKS": "2",
                "SLURM_LOCALID": "0",
            },
            RankEnvironment(share=RankShare(3, 4), local_rank=1),
        ),
    ],
)
def test_the_rank_comes_from_the_environment(environment: dict[str, str], place: RankEnvironment | None) -> None:
    assert find_rank_environment(environment) == place


def test_a_process_without_rank_variables_is_no_rank() -> None:
    assert not is_nonzero_rank()
