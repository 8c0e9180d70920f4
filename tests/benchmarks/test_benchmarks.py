"""The benchmarks run, and compute the same loss for ours and PEFT's."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import decode_time, prefix_vs_peft, serving, serving_latency
from benchmarks.peft_prefix import PeftPrefix
from ptl_prefix import load_backbone
from ptl_prefix.backbones.model_inputs import IGNORED_LABEL, ModelInputs
from ptl_prefix.evaluation.loss import target_loss
from ptl_prefix.methods.no_adaptation import NoAdaptation


def _batch() -> ModelInputs:
    """Two rows, one of them padded on the right."""
    ids = torch.randint(2, 8192, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    labels = ids.masked_fill(mask == 0, IGNORED_LABEL)
    labels[:, :3] = IGNORED_LABEL
    return ModelInputs(ids, mask, labels)


def test_peft_s_loss_is_that_of_its_own_forward() -> None:
    torch.manual_seed(0)
    behind_peft = PeftPrefix(load_backbone(dtype="float32"), prefix_length=3, hidden_size=8)
    batch = _batch()

    loss = target_loss(behind_peft, NoAdaptation().attach(behind_peft), batch)
    own = behind_peft._peft_model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels)

    torch.testing.assert_close(loss.nats / loss.num_tokens, own.loss)


def test_lending_peft_our_head_changes_no_loss() -> None:
    losses = []
    for at_targets in (False, True):
        torch.manual_seed(0)
        behind_peft = PeftPrefix(
            load_backbone(dtype="float32"), prefix_length=3, hidden_size=8, head_at_targets_only=at_targets
        )
        losses.append(target_loss(behind_peft, NoAdaptation().attach(behind_peft), _batch()).nats)

    torch.testing.assert_close(*losses)


def test_what_peft_trains_is_float32_on_a_bfloat16_backbone() -> None:
    behind_peft = PeftPrefix(load_backbone(dtype="bfloat16"), prefix_length=3, hidden_size=8)

    target_loss(behind_peft, NoAdaptation().attach(behind_peft), _batch()).nats.backward()  # type: ignore[no-untyped-call]

    trained = behind_peft.trainable_parameters().values()
    assert trained
    assert {parameter.dtype for parameter in trained} == {torch.float32}
    assert all(parameter.grad is not None for parameter in trained)


def test_both_sides_start_from_the_same_rows_and_write_every_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    words = ["--steps", "2", "--batch-size", "4", "--validation-rows", "8", "--val-check-interval", "1"]

    prefix_vs_peft.main([*words, "--seeds", "0", "1", "--json", str(tmp_path / "out" / "losses.json")])

    report = json.loads((tmp_path / "out" / "losses.json").read_text(encoding="utf-8"))
    assert [(r["label"], r["seed"]) for r in report["results"]] == [
        (label, seed)
        for seed in (0, 1)
        for label in (
            "ours, reparam=mlp", "PEFT, with projection", "ours, reparam=none", "PEFT, without projection",
        )
    ]  # fmt: skip
    for result in report["results"]:
        losses = list(result["val_loss_by_step"].values())
        assert list(result["val_loss_by_step"]) == ["0", "1", "2"]
        assert len(set(losses)) == 3
    ours, theirs = (r["num_trained"] for r in report["results"][:2])
    assert ours == theirs


def test_decoding_is_timed_with_and_without_a_prefix(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    sizes = ["--shape", "tiny", "--rows", "2", "--prompt-tokens", "4", "--new-tokens", "3", "--rounds", "2"]

    decode_time.main([*sizes, "--warmup", "0", "--json", str(report)])

    found = json.loads(report.read_text())
    assert found["times_bare"][decode_time.BARE] == 1.0
    assert {len(seconds) for seconds in found["seconds"].values()} == {2}
    assert len(found["seconds"]) == 5


def test_the_engine_is_measured_beside_other_ways_to_serve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--shape tiny --rows 3 --new-tokens 2 --prompt-tokens 4 --prefix-length 2 --rounds 1 --only base mixed"

    serving.main([*words.split(), "transformers", "PEFT, switching", "--json", str(tmp_path / "serving.json")])

    report = json.loads((tmp_path / "serving.json").read_text())
    assert set(report["tokens_per_s"]) == {"base", "mixed", "transformers", "PEFT, switching"}
    assert {(one, other) for one, other, *_ in report["ratios"]} == {
        ("mixed", "base"),
        ("mixed", "PEFT, switching"),
        ("base", "transformers"),
    }
    assert "tokens/s of one contender" in capsys.readouterr().out


def test_waiting_times_are_measured_under_load(tmp_path: Path) -> None:
    words = "--shape tiny --rows 2 --requests 4 --new-tokens 3 --prompt-tokens 5 --prefix-length 2 --load 0.5"

    serving_latency.main([*words.split(), "--json", str(tmp_path / "latency.json")])

    rows = json.loads((tmp_path / "latency.json").read_text())["rows"]
    assert [row["contender"] for row in rows] == ["base", "mixed"]
    assert all(len(row["first_token_s"]) == 4 and len(row["gaps_s"]) == 8 for row in rows)
    assert all(value > 0 for row in rows for value in (*row["first_token_s"], *row["gaps_s"]))
    assert (tmp_path / "latency.svg").read_text().startswith("<?xml")
