"""Training that starts at the first changed layer: the same steps, computed once for all epochs, runs and ranks."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from support import rank_bodies
from support.among_ranks import among_ranks
from support.method_nodes import new_method
from support.same_runs import assert_same_run
from support.tiny_runs import TinyRuns
from support.toy_batches import training_batch
from torch import Tensor
from torch.testing import assert_close

from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.backbones.attention_sites import layers_of
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.errors import DataError
from ptl_prefix.training.dry_run import estimate
from ptl_prefix.training.hidden_state_cache import CachedStates, cached_states
from ptl_prefix.training.module import AdaptationModule
from ptl_prefix.training.ranks import ONE_RANK
from ptl_prefix.training.run_inputs import load_run_inputs
from ptl_prefix.training.train import train

Changes = dict[str, Any]
UPPER: Changes = {
    "method__layers": [1],
    "method__prefix_dropout": 0.3,  # its random numbers are those of a run without states, too
    "trainer__max_steps": 16,
    "trainer__val_check_interval": 8,
}
CACHED: Changes = {**UPPER, "data__cache_hidden_states": True}


def run(tiny_runs: TinyRuns, folder: Path, **changes: Any) -> dict[str, Any]:
    """The losses of a run, and what it says of hidden states."""
    train(tiny_runs.plan(**changes), RunFolder(folder))
    events = read_events(RunFolder(folder).events)
    losses = {key: [event[key] for event in events if key in event] for key in ("train/loss", "val/loss")}
    return {**losses, "states": [event for event in events if event["kind"] == "hidden_states"]}


@pytest.mark.parametrize("layout", ["plain", "packing", "share_sources"])
def test_a_cached_run_takes_the_same_steps(tiny_runs: TinyRuns, tmp_path: Path, layout: str) -> None:
    changes = {} if layout == "plain" else {f"data__{layout}": True}
    places = {"data__cache_dir": str(tmp_path / "cache")}
    plain = run(tiny_runs, tmp_path / "plain", **UPPER, **changes)

    first, second = (run(tiny_runs, tmp_path / name, **CACHED, **changes, **places) for name in ("first", "second"))

    assert plain["states"] == []
    for key in ("train/loss", "val/loss"):
        assert first[key] == pytest.approx(plain[key], rel=1e-4), key
        assert second[key] == first[key]
    (of_first,), (of_second,) = first["states"], second["states"]
    assert of_first["layer"] == 1
    assert of_first["computed_s"] > 0
    assert of_second["computed_s"] is None
    (entry,) = (path for path in (tmp_path / "cache" / "hidden_states").iterdir() if path.is_dir())
    assert (entry / "states.bin").stat().st_size == of_first["bytes"] == of_second["bytes"]


def test_no_training_step_computes_the_layers_below(
    tiny_runs: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording: list[bool] = []
    loaded = Backbone.layer_input

    def watched(backbone: Backbone, *arguments: Any) -> Any:
        if not recording:
            lowest: Any = layers_of(backbone.model, backbone.config)[0]
            attention = lowest.attn
            attention.register_forward_hook(lambda *_: recording.append(torch.is_grad_enabled()))
        return loaded(backbone, *arguments)

    monkeypatch.setattr(Backbone, "layer_input", watched)
    run(tiny_runs, tmp_path / "run", **CACHED, data__cache_dir=str(tmp_path / "cache"))

    assert len(recording) >= 10, "of the cache, of validation and of decoding"
    assert not any(recording), "none of a training step"


def cached(tiny_runs: TinyRuns, **changes: Any) -> CachedStates:
    """What a run gets before its first step."""
    plan = tiny_runs.plan(**{**CACHED, **changes})
    inputs = load_run_inputs(plan)
    plan.method.attach(inputs.backbone)
    try:
        return cached_states(plan, inputs, notify=print, stage=lambda *_: nullcontext(lambda *_: None))
    finally:
        plan.method.detach()


def test_states_are_found_again_by_all_that_they_depend_on(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    def num_entries(**changes: Any) -> int:
        cached(tiny_runs, **{**place(tmp_path, "cache"), **changes})
        return sum(path.is_dir() for path in (tmp_path / "cache" / "hidden_states").iterdir())

    assert num_entries() == 1
    assert num_entries(seed=1, data__batch_size=8, data__packing=True, optimizer__lr=0.1) == 1
    assert num_entries(method__prefix_length=4) == 2, "text positions are shifted further"
    assert num_entries(method__position_law="unshifted") == 3
    assert num_entries(method__position_law="unshifted", method__prefix_length=5) == 3
    assert num_entries(method__position_law="infix") == 4
    assert num_entries(backbone__dtype="bfloat16") == 5
    assert num_entries(trainer__precision="bf16-mixed") == 6
    assert num_entries(task__num_train=39) == 7


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_states_are_those_of_a_training_step(tiny_runs: TinyRuns, tmp_path: Path, precision: str) -> None:
    found = cached(tiny_runs, trainer__precision=precision, **place(tmp_path, "cache"))
    plan, backbone = tiny_runs.attached(**UPPER)

    for batch in found.batches:
        conditioned = plan.method.condition(batch.replace(layer_input=None))
        states = {}
        for mixed in (False, True):
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                states[mixed] = backbone.layer_input(1, conditioned).states
        assert batch.layer_input is not None
        is_text, is_mixed = batch.attention_mask.bool(), precision == "bf16-mixed"
        # Products of another number of rows may be rounded otherwise, but less than by another precision.
        own, other = (
            (batch.layer_input.states - states[mixed])[is_text].abs().mean() for mixed in (is_mixed, not is_mixed)
        )
        assert own < 0.2 * other
        assert_close(batch.layer_input.states[is_text], states[is_mixed][is_text], rtol=0.05, atol=0.02)


def test_a_run_is_resumed_to_the_same_numbers_also_without_its_states(
    tiny_runs: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    train(tiny_runs.plan(**CACHED, **place(tmp_path, "one")), whole)
    usual = AdaptationModule.training_step

    def failing(module: AdaptationModule, batch: ModelInputs, batch_idx: int) -> Tensor:
        if module.global_step == 12:
            raise ZeroDivisionError
        return usual(module, batch, batch_idx)

    with monkeypatch.context() as patched, pytest.raises(ZeroDivisionError):
        patched.setattr(AdaptationModule, "training_step", failing)
        train(tiny_runs.plan(**CACHED, **place(tmp_path, "two")), parts)
    train(tiny_runs.plan(**CACHED, **place(tmp_path, "three")), parts, resume=True)

    assert_same_run(parts, whole)


def place(tmp_path: Path, name: str) -> Changes:
    return {"data__cache_dir": str(tmp_path / name)}


def test_too_many_bytes_are_refused_before_they_are_computed(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    places = place(tmp_path, "cache")
    needed = estimate(tiny_runs.plan(**CACHED, **places)).hidden_state_bytes

    with pytest.raises(DataError, match=rf"must allow the {needed:,} bytes of hidden states, but is {needed - 1:,}"):
        run(tiny_runs, tmp_path / "run", **CACHED, **places, data__max_hidden_state_bytes=needed - 1)
    assert [path for path in (tmp_path / "cache" / "hidden_states").iterdir() if path.is_dir()] == []
    assert run(tiny_runs, tmp_path / "fits", **CACHED, **places, data__max_hidden_state_bytes=needed)["states"]
    assert estimate(tiny_runs.plan(**UPPER)).hidden_state_bytes == 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"method__layers": None}, "which acts in the lowest layer or before it"),
        ({"method__layers": [0, 1]}, "which acts in the lowest layer or before it"),
        ({"backbone__base_mode": "train"}, "with `backbone.base_mode` train"),
        ({"trainer__strategy": "fsdp"}, "with `trainer.strategy` fsdp"),
    ],
)
def test_what_has_nothing_to_keep_is_refused_before_weights_load(
    tiny_runs: TinyRuns, changes: Changes, reason: str
) -> None:
    (problem,) = tiny_runs.plan(**{**CACHED, **changes}).problems()

    assert "`data.cache_hidden_states` must be false" in problem
    assert reason in problem
    assert tiny_runs.plan(**CACHED).problems() == []


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    (problem,) = TinyRuns(tmp_path, "t5").plan(**CACHED).problems()

    assert "must be false for an encoder-decoder" in problem


def test_a_single_epoch_saves_nothing(tiny_runs: TinyRuns) -> None:
    def notes(steps: int) -> list[str]:
        plan = tiny_runs.plan(**{**CACHED, "trainer__max_steps": steps})
        return [note for note in estimate(plan).plan_notes if "cache_hidden_states" in note]

    assert len(notes(10)) == 1, "40 rows in batches of 4"
    assert notes(11) == []


LAYERS: dict[str, tuple[Changes, int]] = {
    "gated_prefix": ({"layers": [2, 1]}, 1),
    "prefix_plus": ({"layers": [2]}, 2),
    "prefix_tuning": ({"layers": [1, 2]}, 1),
    "lora": ({"target_modules": ["2.attn.c_attn"]}, 2),
    "top_layers": ({"num_top_layers": 1}, 2),
    "prefix_lora": ({"parts": {"first": {"layers": [2]}, "second": {"target_modules": ["1.attn.c_attn"]}}}, 1),
}


@pytest.mark.parametrize("name", LAYERS)
def test_below_the_first_layer_of_a_method_nothing_changes(
    name: str, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    backbone = load_backbone(str(tiny_folders["gpt2"]), name="gpt2", dtype="float32")
    changes, wanted = LAYERS[name]
    method = new_method(name, **changes)

    before = method.first_layer(backbone)
    method.attach(backbone)

    assert before == method.first_layer(backbone) == wanted
    trained = {id(parameter) for parameter in method.trainable_parameters().values()}
    for parameter in method.trainable_parameters().values():
        torch.nn.init.normal_(parameter)
    inputs = method.condition(training_batch())
    states: list[torch.Tensor] = []
    for layer in layers_of(backbone.model, backbone.config):
        layer.register_forward_pre_hook(lambda _, arguments: states.append(arguments[0]))
    backbone.logits(inputs)
    assert trained
    assert [one.requires_grad for one in states] == [index > wanted for index in range(3)]


def test_methods_that_name_no_layers_start_at_the_lowest(tiny_folders: dict[str, Path]) -> None:
    backbone = load_backbone(str(tiny_folders["gpt2"]), name="gpt2", dtype="float32")

    for name in ("prefix_tuning", "prompt_tuning", "lora", "adapter", "full_finetuning", "gated_prefix", "prefix_lora"):
        assert new_method(name).first_layer(backbone) == 0, name


@pytest.mark.slow
def test_ranks_compute_the_states_once_and_train_the_same_as_one(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    without_dropout = {**CACHED, "method__prefix_dropout": 0.0}  # ranks draw other numbers
    alone: Changes = {**without_dropout, "data__batch_size": 8, **place(tmp_path, "alone")}
    shared: Changes = {**without_dropout, "data__batch_size": 4, "trainer__devices": 2, **place(tmp_path, "shared")}

    one = rank_bodies.trained(ONE_RANK, tiny_runs, tmp_path / "one", alone)
    first, second = among_ranks(2, rank_bodies.trained, tiny_runs, tmp_path / "two", shared)

    assert_close(first["state"], second["state"], rtol=0, atol=0)
    assert_close(first["state"], one["state"], rtol=2e-4, atol=2e-4)
    entries = [path for path in (tmp_path / "shared" / "hidden_states").iterdir() if path.is_dir()]
    assert len(entries) == 1
