"""Trainings in a pack: each ends as it does alone, whatever the others do."""

import io
import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny_runs import TinyRuns

from ptl_prefix.artifacts.checkpoint_file import read_checkpoint
from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.spec import BackboneSpec
from ptl_prefix.errors import NonFiniteLossError
from ptl_prefix.training import joined_passes
from ptl_prefix.training.console import EscapingConsole
from ptl_prefix.training.pack import Pack, PackMember
from ptl_prefix.training.plan import Plan
from ptl_prefix.training.train import train

DIFFERENT: Sequence[dict[str, Any]] = (
    {"seed": 0, "method__prefix_length": 3, "optimizer__lr": 0.05},
    {"seed": 1, "method__prefix_length": 9, "method__prefix_dropout": 0.3, "data__batch_size": 3},
    {"seed": 2, "method__prefix_length": 1, "method__reparam": "mlp", "trainer__accumulate_grad_batches": 2},
)
"""Trainings that differ in what a pack allows."""


class CountingSpec(BackboneSpec):
    """Settings of a backbone that count how often it is loaded."""

    num_loaded = 0

    def load(self, *, on: torch.device | None = None) -> Backbone:
        type(self).num_loaded += 1
        return super().load(on=on)


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CountingSpec, "num_loaded", 0)


def counted(plan: Plan) -> Plan:
    plan.backbone.__class__ = CountingSpec
    return plan


def train_alone(plan: Plan, folder: Path, **settings: Any) -> None:
    train(plan, RunFolder(folder), console=EscapingConsole(quiet=True), **settings)


Ending = dict[int, BaseException | None]


def train_packed(
    plans: Sequence[Plan], folder: Path, *, on_member: Callable[[int, PackMember], None] = lambda number, member: None
) -> Ending:
    """Train plans in one pack, and return how each ended."""
    pack, endings = Pack(), Ending()

    def body(number: int) -> Callable[[PackMember], None]:
        def run(member: PackMember) -> None:
            on_member(number, member)
            try:
                train_alone(plans[number], folder / str(number), member=member, resume=True)
                endings[number] = None
            except Exception as error:
                endings[number] = error

        return run

    for number in range(len(plans)):
        pack.add(body(number))
    pack.close()
    pack.run()
    return endings


def losses(folder: Path) -> list[float]:
    """The training losses of all steps, then the validation losses."""
    events = read_events(RunFolder(folder).events)
    return [
        event[key] for kind, key in (("train", "train/loss"), ("validation", "val/loss")) for event in events
        if event["kind"] == kind
    ]  # fmt: skip


def trained(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = read_checkpoint(RunFolder(folder).last)["state_dict"]
    return state


def assert_same_training(found: Path, wanted: Path, *, is_exact: bool = False) -> None:
    """The same losses and parameters: bit for bit, or up to the rounding of passes that were joined."""
    assert losses(found) == pytest.approx(losses(wanted), rel=0.0 if is_exact else 1e-4)
    closeness = {"rtol": 0.0, "atol": 0.0} if is_exact else {"rtol": 1e-2, "atol": 1e-2}
    for name, tensor in trained(wanted).items():
        torch.testing.assert_close(trained(found)[name], tensor, **closeness)


@pytest.fixture(scope="session")
def alone(tiny_runs: TinyRuns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of the different trainings, each alone."""
    folder = tmp_path_factory.mktemp("alone")
    for number, settings in enumerate(DIFFERENT):
        train_alone(tiny_runs.plan(**settings), folder / str(number))
    return folder


@pytest.mark.parametrize("full_pass", [0, 2**20])
def test_each_training_of_a_pack_is_what_it_is_alone(
    tiny_runs: TinyRuns, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_pass: int
) -> None:
    monkeypatch.setitem(joined_passes.FULL_PASS, "cpu", full_pass)

    endings = train_packed([counted(tiny_runs.plan(**settings)) for settings in DIFFERENT], tmp_path / "packed")

    assert endings == {0: None, 1: None, 2: None}
    assert CountingSpec.num_loaded == 1, "there is one frozen backbone"
    for number in range(3):
        found, wanted = tmp_path / "packed" / str(number), alone / str(number)
        # With no pass joined, even the rounding is the same.
        assert_same_training(found, wanted, is_exact=full_pass == 0)
        records = [read_record(RunFolder(folder).record) for folder in (found, wanted)]
        assert records[0].metrics == pytest.approx(records[1].metrics, rel=1e-4)
        assert records[0].cost.tokens == records[1].cost.tokens
        assert records[0].cost.train_s > 0


def test_a_training_that_fails_or_is_stopped_leaves_and_can_be_resumed_alone(
    tiny_runs: TinyRuns, tmp_path: Path
) -> None:
    def plans() -> list[Plan]:
        more = {"trainer__max_steps": 8, "trainer__val_check_interval": 2, "trainer__gradient_clip_val": None}
        settings = [{**DIFFERENT[0]}, {**DIFFERENT[1], "optimizer__lr": 1e37}, {**DIFFERENT[2]}]
        return [counted(tiny_runs.plan(**{**one, **more})) for one in settings]

    for number in (0, 2):
        train_alone(plans()[number], tmp_path / "alone" / str(number))
    folder = tmp_path / "packed"
    stopped = threading.Event()

    def stop_after_a_validation(number: int, member: PackMember) -> None:
        if number != 2:
            return

        def wait_and_stop() -> None:
            while not RunFolder(folder / "2").last.exists():
                stopped.wait(0.01)
            member.request_stop()

        threading.Thread(target=wait_and_stop, daemon=True).start()

    endings = train_packed(plans(), folder, on_member=stop_after_a_validation)

    assert endings[0] is None
    assert isinstance(endings[1], NonFiniteLossError)
    assert [read_record(RunFolder(folder / str(number)).record).status for number in range(3)] == [
        "finished",
        "failed",
        "stopped",
    ]
    assert read_record(RunFolder(folder / "2").record).cost.steps < 8
    assert_same_training(folder / "0", tmp_path / "alone" / "0")

    train_alone(plans()[2], folder / "2", resume=True)
    assert_same_training(folder / "2", tmp_path / "alone" / "2")


def test_a_training_that_was_stopped_is_resumed_in_a_pack(tiny_runs: TinyRuns, alone: Path, tmp_path: Path) -> None:
    pack = Pack()

    def body(member: PackMember) -> None:
        # Asked before it begins, it stops before its first step.
        member.request_stop()
        train_alone(counted(tiny_runs.plan(**DIFFERENT[1])), tmp_path / "packed" / "1", member=member)

    pack.add(body)
    pack.close()
    pack.run()
    assert read_record(RunFolder(tmp_path / "packed" / "1").record).status == "stopped"

    train_packed([counted(tiny_runs.plan(**one)) for one in DIFFERENT[:2]], tmp_path / "packed")

    assert_same_training(tmp_path / "packed" / "1", alone / "1")


def test_what_cannot_share_a_backbone_trains_on_its_own(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    lora = {"method": {"_target_": "ptl_prefix.methods.lora.LoRA", **_lora_settings()}}
    settings: list[dict[str, Any]] = [DIFFERENT[0], lora, {**DIFFERENT[0], "backbone__gradient_checkpointing": True}]
    for number, one in enumerate(settings):
        train_alone(counted(_plan(tiny_runs, one)), tmp_path / "alone" / str(number))
    CountingSpec.num_loaded = 0

    endings = train_packed([counted(_plan(tiny_runs, one)) for one in settings], tmp_path / "packed")

    assert endings == {0: None, 1: None, 2: None}
    assert CountingSpec.num_loaded == 3
    for number in range(3):
        assert_same_training(tmp_path / "packed" / str(number), tmp_path / "alone" / str(number))


def _lora_settings() -> dict[str, Any]:
    from ptl_prefix.settings import defaults_of

    return dict(defaults_of("method/lora"))


def _plan(runs: TinyRuns, settings: dict[str, Any]) -> Plan:
    from ptl_prefix.commands.config.build_plan import build_plan

    method = settings.get("method")
    config = runs.config(**{key: value for key, value in settings.items() if key != "method"})
    return build_plan({**config, "method": method} if method else config)


def in_turns(bodies: Sequence[Callable[[PackMember], None]], outputs: Sequence[io.StringIO] = ()) -> None:
    pack = Pack()
    for number, body in enumerate(bodies):
        pack.add(body, outputs[number] if outputs else None)
    pack.close()
    pack.run()


def test_each_has_random_numbers_and_an_output_of_its_own() -> None:
    drawn: dict[int, list[float]] = {}
    printed: list[str] = []

    class Output(io.StringIO):
        def close(self) -> None:
            printed.append(self.getvalue())
            super().close()

    def body(number: int) -> Callable[[PackMember], None]:
        def run(member: PackMember) -> None:
            torch.manual_seed(number)
            random.seed(number)
            drawn[number] = []
            for step in range(3):
                drawn[number] += [float(torch.rand(())), random.random()]
                print(f"{number} at {step}")
                member.pause()

        return run

    in_turns([body(number) for number in range(3)], [Output() for _ in range(3)])
    found, drawn = drawn, {}
    in_turns([body(1)])

    assert found[1] == drawn[1]
    assert sorted(printed) == [f"{number} at 0\n{number} at 1\n{number} at 2\n" for number in range(3)]


def test_the_clock_of_a_training_stands_still_while_others_run() -> None:
    waited: list[float] = []

    def waits(member: PackMember) -> None:
        began = member.clock()
        member.pause()
        waited.append(member.clock() - began)

    in_turns([waits, lambda member: time.sleep(0.5)])

    assert waited[0] < 0.4
