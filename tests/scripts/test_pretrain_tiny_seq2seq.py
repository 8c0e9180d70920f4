"""The script that pretrains an encoder-decoder: its output is a backbone that has learned something."""

import json
from pathlib import Path

import numpy as np
import pretrain_tiny_seq2seq as script
import pytest
import torch
from denoising import Row, TextInfilling
from support.made_up_towns import write_towns
from transformers import AutoConfig

from ptl_prefix import load_backbone
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.backbones.model_inputs import ModelInputs

_SMALL = "--steps 3 --rows 4 --width 32 --layers 1 --heads 2 --feed-forward 48".split()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_towns(tmp_path_factory.mktemp("text"))


def _pretrain(kind: str, text: list[Path], out: Path, *more: str) -> Path:
    script.main(["--kind", kind, "--text", *map(str, text), "--out", str(out), *_SMALL, *more])
    return out


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_what_it_writes_is_a_backbone(kind: str, text: list[Path], tmp_path: Path) -> None:
    folder = _pretrain(kind, text, tmp_path / "made")

    backbone = load_backbone(str(folder), dtype="float32")
    prompter = backbone.prompter(PromptFormat(between=" ##"))
    tokenizer = backbone.tokenizer
    source, target = prompter.encode_source("Norham"), prompter.encode_target("Norham")

    assert backbone.family == kind
    starts = {"bart": [tokenizer.eos_token_id, tokenizer.bos_token_id], "t5": [tokenizer.pad_token_id]}
    assert AutoConfig.from_pretrained(folder).decoder_start_token_id == starts[kind][0]
    assert prompter.decoder_start_ids == starts[kind]
    assert tokenizer.decode(source) == {"bart": "<s>Norham ##</s>", "t5": "Norham ##</s>"}[kind]
    assert target[-1] == tokenizer.eos_token_id
    ids, written = torch.tensor([source]), torch.tensor([[*starts[kind], *target[:-1]]])
    inputs = ModelInputs(
        ids, torch.ones_like(ids), decoder_input_ids=written, decoder_attention_mask=torch.ones_like(written)
    )
    assert backbone.logits(inputs).isfinite().all()


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_it_leaves_a_card_and_its_losses(kind: str, text: list[Path], tmp_path: Path) -> None:
    folder = _pretrain(kind, text, tmp_path / "made", "--licence", "cc0-1.0")

    card = (folder / "README.md").read_text(encoding="utf-8")
    losses = [json.loads(line) for line in (folder / "losses.jsonl").read_text(encoding="utf-8").splitlines()]

    assert card.startswith("---\nlicense: cc0-1.0\n")
    assert f"--kind {kind} --text plain.jsonl compressed.jsonl.xz --out made --steps 3 --rows 4" in card
    assert f"{load_backbone(str(folder)).num_parameters:,}" in card
    assert [loss["step"] for loss in losses] == [3]
    assert f"{losses[0]['loss']:.3f}" in card


def test_the_same_seed_gives_the_same_backbone(text: list[Path], tmp_path: Path) -> None:
    for name, seed in (("first", "5"), ("second", "5"), ("other", "6")):
        _pretrain("bart", text, tmp_path / name, "--seed", seed)

    first, second, other = (load_backbone(str(tmp_path / name)).identity for name in ("first", "second", "other"))

    assert first.weights_fingerprint == second.weights_fingerprint
    assert first.weights_fingerprint != other.weights_fingerprint


@pytest.mark.parametrize(("kind", "objective"), [("bart", "infilling"), ("t5", "corruption")])
def test_held_out_losses_fall(
    kind: str, objective: str, text: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = []
    for steps in ("1", "40"):
        _pretrain(kind, text, tmp_path / steps, "--steps", steps, "--lr", "0.03")
        words = capsys.readouterr().out.replace(",", " ").split()
        losses.append(float(words[words.index(objective, words.index("held")) + 1]))

    assert losses[1] < losses[0] - 0.5


def test_every_passage_is_in_every_round_once_beside_others_of_about_its_length() -> None:
    class Echo(TextInfilling):
        def __init__(self) -> None:
            pass

        def row(self, passage: script.Passage, _rng: np.random.Generator) -> Row:
            return Row([int(passage[0])] * int(passage[0]), [int(passage[0])])

    texts = [[str(number)] for number in range(1, 65)]

    stream = script.batches(texts, Echo(), np.random.default_rng(0), rows=4, pad_id=0)
    first, second = ([next(stream) for _ in range(16)] for _ in range(2))

    for batches in (first, second):
        seen = torch.cat([batch.labels.flatten() for batch in batches])
        assert sorted(seen.tolist()) == list(range(1, 65))
        assert all(int(batch.labels.max() - batch.labels.min()) == 3 for batch in batches)
    assert [batch.labels.tolist() for batch in first] != [batch.labels.tolist() for batch in second]


def test_padding_is_neither_read_nor_learned() -> None:
    batch = script.as_batch([Row([5, 6, 7], [8]), Row([5], [8, 9])], pad_id=1)

    assert batch.input_ids.tolist() == [[5, 6, 7], [5, 1, 1]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.labels.tolist() == [[8, -100], [8, 9]]
    assert batch.num_tokens == 7


def test_text_without_a_passage_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "few.txt"
    file.write_text("Too short.\n" * 60, encoding="utf-8")

    with pytest.raises(SystemExit, match="must contain a passage of at least 10 words"):
        _pretrain("bart", [file], tmp_path / "made")


def test_encoder_positions_start_at_0_in_half_of_the_batches() -> None:
    rng = np.random.default_rng(0)
    batch = script.as_batch([Row([5] * 10, [8] * 12)], pad_id=1)

    places = [script.first_position(batch, rng) for _ in range(20_000)]

    assert places.count(0) / len(places) == pytest.approx(0.5, abs=0.02)
    assert set(places) == set(range(512 - 10 + 1))
