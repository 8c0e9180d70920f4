"""Two ranks that hold the frozen backbone together train what one trains."""

from pathlib import Path
from typing import Any

import pytest
from support import rank_bodies
from support.among_ranks import RankFailedError, among_ranks, ends_of_ranks
from support.method_nodes import method_node
from support.same_runs import assert_equal_but_for_rounding
from support.tiny_runs import Family, TinyRuns
from torch.testing import assert_close

from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.commands.config.catalog import choices
from ptl_prefix.training.ranks import ONE_RANK

Changes = dict[str, Any]

SHORT: Changes = {
    # Five steps of 8 rows and one of a single row, of which the second rank has none.
    "task__num_train": 41,
    # Three batches of validation: the second rank is one short.
    "task__num_validation": 5,
    # Three batches of prompts, too.
    "task__num_test": 9,
    "data__eval_batch_size": 4,
    "trainer__max_steps": 12,
    "trainer__val_check_interval": 6,
    "optimizer__lr": 0.001,
}
ONE: Changes = {**SHORT, "data__batch_size": 8}
TWO: Changes = {**SHORT, "data__batch_size": 4, "trainer__devices": 2, "trainer__strategy": "fsdp"}
METHODS: dict[str, Changes] = {
    "adapter": {"bottleneck_size": 5},
    "gated_prefix": {"prefix_length": 3},
    "ia3": {},
    "lora": {"dropout": 0.0},
    "prefix_lora": {"parts": {"first": {"prefix_length": 3, "reparam_hidden_size": 16}, "second": {"dropout": 0.0}}},
    "prefix_plus": {},
    "prefix_tuning": {"prefix_length": 3, "reparam_hidden_size": 16},
    "prompt_tuning": {"prompt_length": 4},
    "rslora": {"dropout": 0.0},
}
PAIRS = [
    *((method, family) for method in ("lora", "prefix_tuning") for family in ("gpt2", "llama", "bart", "t5")),
    # Decoder-only backbones refuse it: it reads keys and values inside the layers.
    *(("prompt_tuning", family) for family in ("bart", "t5")),
    *((method, "gpt2") for method in METHODS if method not in ("lora", "prefix_tuning", "prompt_tuning")),
]
"""One method of each kind meets every family; the others differ in parameters that are not sharded."""
SAME_CLASS = ("document_prefix",)
"""Methods that are `prefix_tuning` with other defaults."""
REFUSED = ("bitfit", "dora", "full_finetuning", "layer_norm", "peft", "top_layers")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.fixture
def whole(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "whole")


def test_every_method_is_tried_or_refused() -> None:
    assert sorted([*METHODS, *SAME_CLASS, *REFUSED]) == sorted(choice.name for choice in choices("method"))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "family"), PAIRS)
def test_two_ranks_with_a_sharded_backbone_train_the_same_as_one(
    method: str, family: Family, tmp_path: Path, folder: RunFolder, whole: RunFolder
) -> None:
    tiny = TinyRuns(tmp_path / "tiny", family)
    node = method_node(method, **METHODS[method])

    rank_bodies.trained(ONE_RANK, tiny, whole.path, {**ONE, "method": node})
    first, second = among_ranks(2, rank_bodies.trained, tiny, folder.path, {**TWO, "method": node})

    assert_equal_but_for_rounding(folder, whole)
    assert_close(first["state"], second["state"], rtol=0, atol=0)
    assert first["outputs"] == second["outputs"]
    attached = next(event for event in read_events(folder.events) if event["kind"] == "attached")
    assert attached["backbone_bytes_per_rank"] == pytest.approx(tiny.backbone().num_bytes / 2, rel=0.01)


def test_sharded_ranks_with_accumulation_and_beam_search_train_the_same_as_one(
    tiny_runs: TinyRuns, folder: RunFolder, whole: RunFolder
) -> None:
    more = {"generation__num_beams": 2, "backbone__gradient_checkpointing": True}
    both = {
        "data__batch_size": 2,
        "trainer__accumulate_grad_batches": 2,
        "trainer__val_check_interval": 12,
        "tracking__num_samples": 2,
    }

    rank_bodies.trained(ONE_RANK, tiny_runs, whole.path, {**ONE, **more})
    among_ranks(2, rank_bodies.trained, tiny_runs, folder.path, {**TWO, **more, **both})

    assert_equal_but_for_rounding(folder, whole)
    assert [len(event["samples"]) for event in read_events(folder.events) if event["kind"] == "samples"] == [2, 2]


def test_a_sharded_run_is_resumed_on_one_device(tiny_runs: TinyRuns, folder: RunFolder, whole: RunFolder) -> None:
    rank_bodies.trained(ONE_RANK, tiny_runs, whole.path, ONE)
    ends = among_ranks(2, rank_bodies.trained_with_failure, tiny_runs, folder.path, TWO, 0, 7, "SIGTERM")

    rank_bodies.trained(ONE_RANK, tiny_runs, folder.path, TWO, True)

    assert [(end["signal"], end["steps"]) for end in ends] == [("SIGTERM", 8)] * 2
    assert_equal_but_for_rounding(folder, whole)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("failure", ["error", "SIGKILL"])
def test_after_a_failure_of_one_rank_the_other_exits_and_the_run_can_be_resumed(
    tiny_runs: TinyRuns, folder: RunFolder, whole: RunFolder, rank: int, failure: str
) -> None:
    rank_bodies.trained(ONE_RANK, tiny_runs, whole.path, ONE)

    ends = ends_of_ranks(2, rank_bodies.trained_with_failure, tiny_runs, folder.path, TWO, rank, 8, failure)

    assert all(isinstance(end, RankFailedError) for end in ends)
    assert "RankError: Another rank exited" in str(ends[1 - rank])
    if (rank, failure) != (0, "SIGKILL"):
        assert read_record(folder.record).status == "failed"
    among_ranks(2, rank_bodies.trained, tiny_runs, folder.path, TWO, True)
    assert_equal_but_for_rounding(folder, whole)


@pytest.mark.parametrize(
    ("method", "does"),
    [
        ("full_finetuning", "'full_finetuning' trains copies of the weights"),
        ("top_layers", "'top_layers' trains copies of the weights"),
        ("bitfit", "'bitfit' trains copies of the weights"),
        ("dora", "'dora' reads the norms of the weights' rows"),
        ("layer_norm", "'layer_norm' is a tuner of PEFT, which may read the weights of single modules"),
        ("prompt_tuning", "'prompt_tuning' reads keys and values inside the layers"),
    ],
)
def test_a_method_that_needs_the_weights_themselves_is_refused(tiny_runs: TinyRuns, method: str, does: str) -> None:
    problems = tiny_runs.plan(**TWO, method=method_node(method)).problems()

    assert problems == [
        "With `trainer.strategy` fsdp the weights are sharded and only available in whole forward passes, "
        f"but {does}; choose trainer=ddp, or another method."
    ]
