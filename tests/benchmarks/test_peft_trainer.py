"""Epochs here and in the Hugging Face Trainer are comparable, and all results are written."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from support.made_up_e2e import write_e2e

from benchmarks import peft_trainer
from benchmarks.peft_trainer import Epochs, Pair
from benchmarks.shapes import random_backbone
from ptl_prefix.backbones.model_inputs import IGNORED_LABEL
from ptl_prefix.data.batches import PLAIN, RowLayout
from ptl_prefix.methods.prefix_tuning import PrefixTuning

SIZES = argparse.Namespace(prefix_length=3, reparam_hidden_size=8, rank=2)


@pytest.fixture
def epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Epochs:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    backbone = random_backbone("tiny", device="cpu", dtype="float32")
    return Epochs(peft_trainer.load_sample(write_e2e(tmp_path), 2, backbone), "tiny", "float32", batch_size=2)


def test_the_sample_has_whole_inputs_and_labels_their_targets_alone(epochs: Epochs) -> None:
    rows = peft_trainer._labelled(epochs.sample)

    assert len(rows) == 2 * 3
    for row, encoded in zip(rows, epochs.sample.rows(range(6)), strict=True):
        num_source = encoded["num_source_ids"]
        assert row["labels"][:num_source] == [IGNORED_LABEL] * num_source
        assert row["labels"][num_source:] == row["input_ids"][num_source:] != []
        assert len(row["attention_mask"]) == len(row["input_ids"])


def test_both_sides_train_as_many_parameters(epochs: Epochs) -> None:
    counts = {name: epochs.num_trained(pair) for name, pair in peft_trainer.pairs(SIZES).items()}

    # 4 layers of width 256: keys and values of three positions; rows of a prompt; two matrices of rank 2 for q and v.
    assert counts["prefix"] == 3 * 4 * 2 * 256
    assert counts["prompt"] == 3 * 256
    assert counts["lora"] == 4 * 2 * (256 + 3 * 256)
    assert counts["projection"] > counts["prefix"]


def test_sides_that_train_other_numbers_of_parameters_are_refused(epochs: Epochs) -> None:
    theirs = peft_trainer.pairs(SIZES)["prefix"].peft
    pair = Pair("prefix", lambda _: PrefixTuning(prefix_length=2, reparam="none"), theirs)

    with pytest.raises(RuntimeError, match=r"of 'prefix' ours trains 4,096 and PEFT's 6,144"):
        epochs.num_trained(pair)


def test_contenders_differ_in_how_their_batches_are_made(epochs: Epochs, monkeypatch: pytest.MonkeyPatch) -> None:
    class Asked:
        def __init__(self, *, args: Any, **_: Any) -> None:
            made.append(args.train_sampling_strategy)

        def train(self) -> None:
            """Train nothing."""

    def batches(*given: Any, layout: RowLayout, **named: Any) -> Any:
        made.append(layout)
        return train_batches(*given, layout=layout, **named)

    made: list[Any] = []
    train_batches = peft_trainer.TrainBatches
    monkeypatch.setattr(peft_trainer, "Trainer", Asked)
    monkeypatch.setattr(peft_trainer, "TrainBatches", batches)
    turns = peft_trainer.contenders(peft_trainer.pairs(SIZES)["prefix"], epochs)

    found = {}
    for name, turn in turns.items():
        made.clear()
        turn(max_steps=1)
        (found[name],) = made

    assert found == {
        peft_trainer.DEFAULTS: "random",
        peft_trainer.BEST: "group_by_length",
        peft_trainer.OURS: PLAIN,
        peft_trainer.SHARED: RowLayout(share_sources=True),
    }


def test_an_epoch_has_every_pair_on_both_sides(epochs: Epochs, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: dict[str, int] = {}

    class Theirs(peft_trainer.Trainer):
        def train(self, *given: Any, **named: Any) -> Any:
            super().train(*given, **named)
            steps["PEFT"] = self.state.global_step

    class Ours(pl.Trainer):
        def fit(self, *given: Any, **named: Any) -> None:
            super().fit(*given, **named)
            steps["ours"] = self.global_step

    monkeypatch.setattr(peft_trainer, "Trainer", Theirs)
    monkeypatch.setattr(peft_trainer.pl, "Trainer", Ours)
    turns = peft_trainer.contenders(peft_trainer.pairs(SIZES)["prefix"], epochs)

    for name in (peft_trainer.DEFAULTS, peft_trainer.OURS):
        turns[name]()

    assert steps == {"PEFT": 3, "ours": 3}, "six pairs in batches of two"


@pytest.mark.slow
def test_four_contenders_of_each_method_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = ["--data", str(write_e2e(tmp_path)), "--inputs", "2", "--shape", "tiny", "--rounds", "2"]

    peft_trainer.main([*words, "--only", "prefix", "lora", "--json", str(tmp_path / "epochs.json")])

    report = json.loads((tmp_path / "epochs.json").read_text(encoding="utf-8"))
    assert (report["num_inputs"], report["num_pairs"]) == (2, 6)
    contenders = [peft_trainer.DEFAULTS, peft_trainer.BEST, peft_trainer.OURS, peft_trainer.SHARED]
    found = [(one["method"], one["contender"]) for one in report["measurements"]]
    assert found == [(method, contender) for method in ("prefix", "LoRA") for contender in contenders]
    assert all(len(one["seconds"]) == 2 and min(one["seconds"]) > 0 for one in report["measurements"])
    assert [one["over_defaults"]["median"] for one in report["measurements"]][::4] == [1.0, 1.0]
