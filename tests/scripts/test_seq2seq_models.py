"""Tokenizers and models of small encoder-decoders, before they are trained."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from denoising import MASK, SENTINELS
from seq2seq_models import MAX_POSITIONS, encoder_positions_from, new_model, tokenizer_for
from support.tiny_backbones import tiny_tokenizer

from ptl_prefix.backbones.source import EMBEDDED

_SIZES = Namespace(width=32, layers=2, heads=2, feed_forward=48)
_OWN = EMBEDDED / "tiny_gpt2"


def _model(kind: str) -> Any:
    return new_model(kind, tokenizer_for(kind, _OWN), _SIZES).eval()


def test_bart_s_tokenizer_puts_its_ids_around_a_text_and_has_a_mask() -> None:
    tokenizer = tokenizer_for("bart", _OWN)

    ids = tokenizer("Zürich, 10 €").input_ids

    assert tokenizer.decode(ids) == "<s>Zürich, 10 €</s>"
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert tokenizer.decode(tokenizer(f"a{MASK} b").input_ids, skip_special_tokens=True) == "a b"
    assert tokenizer.mask_token_id not in (None, tokenizer.unk_token_id)
    assert tokenizer.pad_token == "<|pad|>"


def test_t5_s_tokenizer_ends_a_text_and_has_sentinels() -> None:
    tokenizer = tokenizer_for("t5", _OWN)

    ids = tokenizer("Zürich, 10 €").input_ids

    assert tokenizer.decode(ids) == "Zürich, 10 €</s>"
    assert tokenizer.bos_token is None
    assert len({tokenizer.convert_tokens_to_ids(sentinel) for sentinel in SENTINELS}) == 100


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_a_tokenizer_of_one_s_own_keeps_its_ids(kind: str, tmp_path: Path) -> None:
    theirs = tiny_tokenizer()
    theirs.save_pretrained(tmp_path)

    ours = tokenizer_for(kind, tmp_path)

    text = "the cat sat"
    assert ours(text, add_special_tokens=False).input_ids == theirs(text, add_special_tokens=False).input_ids
    assert ours.pad_token_id == theirs.pad_token_id


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"must be a folder with a tokenizer\.json"):
        tokenizer_for("bart", tmp_path)


def test_bart_s_encoder_can_count_from_anywhere_and_its_decoder_counts_from_0() -> None:
    model = _model("bart")
    tables = (model.get_encoder().embed_positions, model.get_decoder().embed_positions)
    seen: list[list[torch.Tensor]] = [[], []]
    for table, kept in zip(tables, seen, strict=True):
        table.register_forward_hook(lambda _, __, output, kept=kept: kept.append(output[0]))
    inputs = {"input_ids": torch.tensor([[5, 9, 7]]), "decoder_input_ids": torch.tensor([[3, 5]])}

    for first in (0, 200, MAX_POSITIONS - 3):
        with encoder_positions_from(model, first):
            model(**inputs)
        # BART's tables have two rows ahead of position 0.
        assert torch.equal(seen[0][-1], tables[0].weight[first + 2 : first + 5])
        assert torch.equal(seen[1][-1], tables[1].weight[2:4])
    model(**inputs)
    assert torch.equal(seen[0][-1], seen[0][0])


def test_bart_s_positions_start_alike_on_both_sides_and_near_ones_resemble() -> None:
    model = _model("bart")
    read, written = model.get_encoder().embed_positions.weight, model.get_decoder().embed_positions.weight

    assert torch.equal(read, written)
    likeness = torch.nn.functional.normalize(read, dim=1) @ read[100]
    assert likeness.topk(3).indices.sort().values.tolist() == [99, 100, 101]


def test_t5_counts_no_positions() -> None:
    model = _model("t5")
    inputs = {"input_ids": torch.tensor([[5, 9, 7]]), "decoder_input_ids": torch.tensor([[1]])}
    bare = model(**inputs).logits

    with encoder_positions_from(model, 100):
        assert torch.equal(model(**inputs).logits, bare)


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_embeddings_are_tied_and_there_is_no_dropout(kind: str) -> None:
    model = _model(kind)
    inputs = {"input_ids": torch.tensor([[5, 9, 7]]), "decoder_input_ids": torch.tensor([[1]])}

    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert torch.equal(model(**inputs).logits, model.train()(**inputs).logits)
