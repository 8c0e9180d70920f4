"""The script that pretrains a GPT-2: its output is a backbone."""

import json
import random
from pathlib import Path

import numpy as np
import pretrain_tiny_gpt2 as script
import pytest
import torch
from support.made_up_towns import write_towns

from ptl_prefix import load_backbone
from ptl_prefix.backbones.model_inputs import ModelInputs

_SMALL = ["--steps", "3", "--vocab-size", "300", "--width", "32", "--layers", "2", "--heads", "2"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_towns(tmp_path_factory.mktemp("corpus"))


def _pretrain(corpus: list[Path], out: Path, *more: str) -> None:
    script.main(["--corpus", *map(str, corpus), "--out", str(out), *_SMALL, *more])


def test_what_it_writes_is_a_backbone(corpus: list[Path], tmp_path: Path) -> None:
    _pretrain(corpus, tmp_path / "made")

    backbone = load_backbone(str(tmp_path / "made"), dtype="float32")
    tokenizer = backbone.tokenizer

    assert backbone.family == "gpt2"
    assert backbone.max_positions == 512
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, backbone.pad_id) == (0, 0, 1)
    assert tokenizer.decode(tokenizer("Zürich, 10 €").input_ids) == "Zürich, 10 €"
    ids = torch.tensor([tokenizer("Norham is a small").input_ids])
    assert backbone.logits(ModelInputs(ids, torch.ones_like(ids))).isfinite().all()


def test_the_same_seed_gives_the_same_backbone(corpus: list[Path], tmp_path: Path) -> None:
    for name, seed in (("first", "5"), ("second", "5"), ("other", "6")):
        _pretrain(corpus, tmp_path / name, "--seed", seed)

    first, second, other = (load_backbone(str(tmp_path / name)).identity for name in ("first", "second", "other"))

    assert first.weights_fingerprint == second.weights_fingerprint
    assert first.weights_fingerprint != other.weights_fingerprint


def test_held_out_losses_fall(corpus: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    losses = []
    for steps in ("1", "12"):
        _pretrain(corpus, tmp_path / steps, "--steps", steps, "--lr", "0.3")
        words = capsys.readouterr().out.replace(",", " ").split()
        losses.append([float(words[words.index(kind, words.index("held")) + 1]) for kind in ("text", "pairs")])

    assert losses[1][0] < losses[0][0] - 0.5
    assert losses[1][1] < losses[0][1] - 0.5


def test_every_position_gets_its_turn() -> None:
    positions = script.random_positions(5000, np.random.default_rng(0))

    assert set(positions.flatten().tolist()) == set(range(512))
    assert (positions.diff() == 1).all()


def test_a_pair_is_made_of_its_sentence() -> None:
    sentence = "In June 1997 the governor left Hong Kong for London with his family."

    pairs = [script.keyword_pair(sentence, random.Random(seed)) for seed in range(200)]

    for pair in filter(None, pairs):
        assert pair.endswith(sentence)
        keywords = pair.removesuffix(sentence)
        separator = next(s for s in (" || ", " => ", " ## ", "\n", " = ", " TL;DR ") if keywords.endswith(s))
        for keyword in keywords.removesuffix(separator).split(" | "):
            assert keyword.split(" : ")[-1] in sentence
    assert len(set(filter(None, pairs))) > 100


def test_a_corpus_too_small_for_a_row_is_refused(tmp_path: Path) -> None:
    corpus = tmp_path / "few.jsonl"
    corpus.write_text(json.dumps({"text": "Norham is a small town on the river Ash in the north."}), encoding="utf-8")

    with pytest.raises(SystemExit, match="must have more than 256 tokens"):
        _pretrain([corpus], tmp_path / "made")
