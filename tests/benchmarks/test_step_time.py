"""The benchmark of training steps: contenders are comparable, and all results are written."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import step_time
from benchmarks.rounds import paired_ratio
from benchmarks.shapes import SHAPES, random_backbone
from benchmarks.step_builders import CONTENDERS, Setting, check_comparable
from benchmarks.step_time import FULL

SMALL = ["--batch-size", "2", "--source-tokens", "4", "--target-tokens", "4", "--dtype", "float32"]


def _setting(shape: str, dtype: str = "float32") -> Setting:
    return Setting(
        shape=shape,
        device="cpu",
        dtype=dtype,
        batch_size=2,
        source_tokens=4,
        target_tokens=4,
        prefix_length=3,
        hidden_size=8,
        rank=2,
    )


@pytest.mark.parametrize("shape", ["tiny", "tiny_llama"])
def test_all_contenders_see_one_batch_and_train_as_many_parameters_as_their_rivals(shape: str) -> None:
    trainings = {name: contender.build(_setting(shape)) for name, contender in CONTENDERS.items()}

    check_comparable(trainings)
    first = {name: training.step() for name, training in trainings.items()}

    # Whatever starts at the bare backbone has its loss, whoever computes it.
    for name in ("ours_full", "peft_lora", "ours_lora"):
        assert first[name] == pytest.approx(first[FULL], rel=1e-5), name
    # A prefix does not; where logits are computed does not matter to it.
    assert first["ours"] == pytest.approx(first["ours_everywhere"], rel=1e-5)
    assert first["peft"] == pytest.approx(first["peft_targets"], rel=1e-5)
    assert all(training.step() < first[name] for name, training in trainings.items())


def test_contenders_with_other_batches_or_parameters_are_refused() -> None:
    full, ours = (CONTENDERS[name].build(_setting("tiny")) for name in ("full", "ours"))
    other_batch = dataclasses.replace(ours, batch=dataclasses.replace(ours.batch, labels=ours.batch.input_ids))
    rival = CONTENDERS["peft"].build(dataclasses.replace(_setting("tiny"), prefix_length=4))

    with pytest.raises(RuntimeError, match="must see the same batch, but 'ours'"):
        check_comparable({"full": full, "ours": other_batch})
    with pytest.raises(RuntimeError, match=r"'ours' trains 6,144 and 'peft' 8,192"):
        check_comparable({"peft": rival, "ours": ours})


def test_frozen_weights_are_shared_and_trained_ones_are_not() -> None:
    frozen, again = (random_backbone("tiny", device="cpu", dtype="float32") for _ in range(2))
    own = random_backbone("tiny", device="cpu", dtype="float32", is_own=True)

    weights = [backbone.model.get_input_embeddings().weight for backbone in (frozen, again, own)]
    assert frozen.model is not again.model
    assert weights[0] is weights[1]
    assert weights[0] is not weights[2]
    assert torch.equal(weights[0], weights[2])


def test_the_shape_of_a_billion_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        backbone = random_backbone("llama_1b", device="meta", dtype="bfloat16", is_own=True)

    assert backbone.num_parameters == 1_235_814_400


def test_a_ratio_is_taken_within_rounds() -> None:
    ratio = paired_ratio([2.0, 20.0, 6.0], [1.0, 10.0, 2.0])

    assert (ratio.median, ratio.low, ratio.high) == (2.0, 2.0, 2.5)
    assert paired_ratio([3.0], [2.0]).high == 1.5


def test_every_contender_s_time_and_memory_are_written(tmp_path: Path) -> None:
    names = ["full", "peft", "ours"]
    words = ["--shape", "tiny", "--steps", "9", "--warmup", "1", "--limit-s", "0", "--only", *names, *SMALL]

    step_time.main([*words, "--json", str(tmp_path / "times.json")])

    report = json.loads((tmp_path / "times.json").read_text(encoding="utf-8"))
    assert set(report) == {"environment", "measured"}
    (measured,) = report["measured"]
    assert measured["setting"]["shape"] == "tiny"
    full, peft, ours = measured["measurements"]
    assert [m["label"] for m in (full, peft, ours)] == [CONTENDERS[name].label for name in names]
    assert all(m["rounds"] == 1 for m in (full, peft, ours)), "no second round begins when the time is over"
    assert all(0 < m["step_s"] <= m["slowest_s"] for m in (full, peft, ours))
    # Beside the weights at least the two moments of each.
    assert full["peak_memory_bytes"] - ours["peak_memory_bytes"] > 2 * 4 * full["num_trained"]
    assert full["speed_over_full"] is None
    assert peft["speed_over_peft"] is None
    assert ours["speed_over_peft"]["low"] <= ours["speed_over_peft"]["median"] <= ours["speed_over_peft"]["high"]
    assert ours["speed_over_full"]["median"] == pytest.approx(full["step_s"] / ours["step_s"], rel=0.9)


def test_shapes_for_a_gpu_are_not_the_default_elsewhere() -> None:
    assert step_time.parse([]).shape == ["gpt2", "small_llama"]
    assert set(step_time.parse([]).shape) <= set(SHAPES)


def test_a_machine_without_the_command_line_s_libraries_can_measure() -> None:
    blocked = ("hydra", "omegaconf", "optuna", "wandb", "datasets", "pytorch_lightning", "ptl_prefix.commands")
    block = f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))"
    code = f"{block}; from benchmarks import step_time; step_time.parse([])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
