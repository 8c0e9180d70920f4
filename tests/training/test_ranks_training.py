"""Two ranks train what one trains: the same examples in the same order, the same losses, outputs and bundle."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support import rank_bodies
from support.among_ranks import RankFailedError, among_ranks, ends_of_ranks
from support.method_nodes import method_node
from support.quantized_backbones import LIBRARIES
from support.same_runs import assert_equal_but_for_rounding, assert_same_run, losses
from support.tiny_runs import Family, TinyRuns
from torch.testing import assert_close

from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.commands.config.catalog import choices
from ptl_prefix.training.ranks import ONE_RANK

Changes = dict[str, Any]

SHORT: Changes = {
    # 41 rows are 5 steps of 8 and one of a single row, of which the second rank has none.
    "task__num_train": 41,
    # Three batches of validation: the second rank is one short.
    "task__num_validation": 5,
    "task__num_test": 7,
    "data__eval_batch_size": 4,
    "trainer__max_steps": 12,
    "trainer__val_check_interval": 6,
    "optimizer__lr": 0.01,
}
ONE: Changes = {**SHORT, "data__batch_size": 8}
TWO: Changes = {**SHORT, "data__batch_size": 4, "trainer__devices": 2}
ACCUMULATED: Changes = {
    **SHORT,
    "data__batch_size": 4,
    "trainer__accumulate_grad_batches": 2,
    "trainer__val_check_interval": 12,
}
BOTH: Changes = {**ACCUMULATED, "data__batch_size": 2, "trainer__devices": 2}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.fixture(scope="module")
def whole(tiny_runs: TinyRuns, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The run of one rank with the larger batch."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    rank_bodies.trained(ONE_RANK, tiny_runs, folder, ONE)
    return RunFolder(folder)


def test_two_ranks_train_the_same_as_one_with_twice_the_batch(
    tiny_runs: TinyRuns, whole: RunFolder, folder: RunFolder
) -> None:
    first, second = among_ranks(2, rank_bodies.trained, tiny_runs, folder.path, TWO)

    assert_equal_but_for_rounding(folder, whole)
    assert_close(first["state"], second["state"], rtol=0, atol=0)
    assert first["outputs"] == second["outputs"], "in order, and all of them"
    assert len(first["outputs"]) == 7


def test_accumulated_batches_train_the_same_as_one_batch(
    tiny_runs: TinyRuns, whole: RunFolder, folder: RunFolder
) -> None:
    rank_bodies.trained(ONE_RANK, tiny_runs, folder.path, ACCUMULATED)

    assert_equal_but_for_rounding(folder, whole)


def test_ranks_that_accumulate_train_the_same_too(tiny_runs: TinyRuns, whole: RunFolder, folder: RunFolder) -> None:
    among_ranks(2, rank_bodies.trained, tiny_runs, folder.path, BOTH)

    assert_equal_but_for_rounding(folder, whole)


def test_ranks_other_than_zero_write_nothing_to_the_folder(tiny_runs: TinyRuns, folder: RunFolder) -> None:
    first, second = among_ranks(2, rank_bodies.touched_in_a_run, tiny_runs, folder.path, TWO)

    assert {str(folder.last), str(folder.events)} <= set(first)
    assert second == []


def test_only_rank_zero_writes(tiny_runs: TinyRuns, whole: RunFolder, folder: RunFolder) -> None:
    among_ranks(2, rank_bodies.trained, tiny_runs, folder.path, TWO)

    def files(run: RunFolder) -> list[str]:
        return sorted(path.name for path in run.path.rglob("*") if path.is_file())

    assert files(folder) == files(whole)
    steps = [(event["kind"], event["step"]) for event in read_events(folder.events)]
    assert steps == [(event["kind"], event["step"]) for event in read_events(whole.events)]


SIZES: dict[str, Changes] = {
    "adapter": {"bottleneck_size": 5},
    "prefix_lora": {"parts": {"first": {"prefix_length": 3, "reparam_hidden_size": 16}, "second": {"dropout": 0.0}}},
    "prefix_tuning": {"prefix_length": 3, "reparam_hidden_size": 16},
    "prompt_tuning": {"prompt_length": 4},
}
WITHOUT_DROPOUT = ("lora", "dora", "rslora")
PAIRS = [(choice.name, "gpt2") for choice in choices("method")] + [
    (method, family) for method in ("lora", "prefix_tuning", "prompt_tuning") for family in ("bart", "t5")
]
"""Every method, and one of each kind on encoder-decoders: ranks know of a method's trainable parameters alone."""


@pytest.mark.slow
@pytest.mark.parametrize(("method", "family"), PAIRS)
def test_two_ranks_train_the_same_as_one_with_every_method(
    method: str, family: Family, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tiny = TinyRuns(tmp_path / "tiny", family)
    changes = SIZES.get(method, {"dropout": 0.0} if method in WITHOUT_DROPOUT else {})
    node = method_node(method, **changes)
    folder, whole = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "whole")
    lr = {"optimizer__lr": 0.001}

    rank_bodies.trained(ONE_RANK, tiny, whole.path, {**ONE, **lr, "method": node})
    among_ranks(2, rank_bodies.trained, tiny, folder.path, {**TWO, **lr, "method": node})

    assert_equal_but_for_rounding(folder, whole)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["torchao_int8", "bitsandbytes_4bit"])
@pytest.mark.parametrize("method", ["prefix_tuning", "lora"])
def test_two_ranks_train_the_same_as_one_over_quantised_weights(
    quantization: str, method: str, tmp_path: Path, folder: RunFolder
) -> None:
    # Not in 8 bits by bitsandbytes: they round activations, too, where a last bit may become a whole step.
    pytest.importorskip(LIBRARIES[quantization])
    tiny = TinyRuns(tmp_path / "tiny", "llama")
    node = method_node(method, **SIZES.get(method, {"dropout": 0.0}))
    changes = {"backbone__quantization": quantization, "optimizer__lr": 0.001, "method": node}
    whole, plain = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "plain")

    rank_bodies.trained(ONE_RANK, tiny, whole.path, {**ONE, **changes})
    among_ranks(2, rank_bodies.trained, tiny, folder.path, {**TWO, **changes})

    assert_equal_but_for_rounding(folder, whole)
    rank_bodies.trained(ONE_RANK, tiny, plain.path, {**ONE, **changes, "backbone__quantization": None})
    assert losses(plain)["val/loss"] != pytest.approx(losses(whole)["val/loss"], rel=1e-6), "the matrices were packed"


DROPPING: Changes = {**TWO, "method__prefix_dropout": 0.3, "backbone__base_mode": "train"}


class TestDropout:
    """Draws differ from rank to rank, and are carried over a resumption."""

    def test_ranks_have_different_random_states(self, tiny_runs: TinyRuns, folder: RunFolder) -> None:
        as_many_rows = {**DROPPING, "task__num_train": 40}  # or they would differ in how much they draw
        first, second = among_ranks(2, rank_bodies.trained, tiny_runs, folder.path, as_many_rows)

        assert first["drawn"] != second["drawn"]
        assert_close(first["state"], second["state"], rtol=0, atol=0)

    def test_a_resumed_run_has_the_random_states_of_an_uninterrupted_one(
        self, dropping_runs: TinyRuns, folder: RunFolder, tmp_path: Path
    ) -> None:
        unbroken = RunFolder(tmp_path / "unbroken")
        among_ranks(2, rank_bodies.trained, dropping_runs, unbroken.path, DROPPING)

        stopped = among_ranks(
            2, rank_bodies.trained_with_failure, dropping_runs, folder.path, DROPPING, 1, 7, "SIGTERM"
        )
        among_ranks(2, rank_bodies.trained, dropping_runs, folder.path, DROPPING, True)

        assert [(end["signal"], end["steps"]) for end in stopped] == [("SIGTERM", 8)] * 2
        assert_same_run(folder, unbroken)


@pytest.mark.parametrize(("before", "after"), [(2, 1), pytest.param(2, 3, marks=pytest.mark.slow)])
def test_a_run_resumed_on_another_number_of_ranks_keeps_the_rows_of_each_step(
    tiny_runs: TinyRuns, whole: RunFolder, folder: RunFolder, before: int, after: int
) -> None:
    among_ranks(before, rank_bodies.trained_with_failure, tiny_runs, folder.path, TWO, 0, 7, "SIGTERM")

    if after == 1:
        rank_bodies.trained(ONE_RANK, tiny_runs, folder.path, TWO, True)
    else:
        among_ranks(after, rank_bodies.trained, tiny_runs, folder.path, TWO, True)

    assert_equal_but_for_rounding(folder, whole)
    assert next(event["num_ranks"] for event in read_events(folder.events) if event["kind"] == "resumed") == after


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("failure", ["error", "SIGKILL"])
def test_after_a_failure_of_one_rank_all_exit_and_the_run_can_be_resumed(
    tiny_runs: TinyRuns, whole: RunFolder, folder: RunFolder, rank: int, failure: str
) -> None:
    ends = ends_of_ranks(2, rank_bodies.trained_with_failure, tiny_runs, folder.path, TWO, rank, 8, failure)

    assert all(isinstance(end, RankFailedError) for end in ends)
    own, others = str(ends[rank]), str(ends[1 - rank])
    assert ("ZeroDivisionError: an failure" in own) == (failure == "error")
    assert "RankError: Another rank exited" in others
    if (rank, failure) != (0, "SIGKILL"):
        assert read_record(folder.record).status == "failed"

    among_ranks(2, rank_bodies.trained, tiny_runs, folder.path, TWO, True)
    assert_equal_but_for_rounding(folder, whole)


def test_a_loss_that_is_not_finite_is_refused_by_all(tiny_runs: TinyRuns, folder: RunFolder) -> None:
    changes = {**TWO, "optimizer__lr": 1e30, "optimizer__warmup_steps": 0}

    ends = ends_of_ranks(2, rank_bodies.trained, tiny_runs, folder.path, changes)

    assert all("NonFiniteLossError: Losses and gradients must be finite" in str(end) for end in ends)
    assert read_record(folder.record).status == "failed"


def test_checkpoints_hold_the_random_state_of_each_rank(tiny_runs: TinyRuns, folder: RunFolder) -> None:
    among_ranks(2, rank_bodies.trained, tiny_runs, folder.path, TWO)

    first, second = torch.load(folder.last, weights_only=True)["callbacks"]["RandomState"]["of_ranks"]

    assert not torch.equal(first["torch"], second["torch"])
