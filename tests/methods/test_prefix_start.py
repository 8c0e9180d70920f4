"""Where a prefix starts: at real words, at an earlier prefix, with a sink that stays."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.no_task import export_untasked
from support.toy_batches import EQUAL, ToyRows, text_logits, toy_start_inputs, train, unpadded
from torch.testing import assert_close

from ptl_prefix import PrefixTuning
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.backbones.observation import observed_text
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.methods.prefix_table import MlpTable
from ptl_prefix.methods.start_texts import demonstration_ids, training_input_ids, word_ids

REPARAMS = ("none", "mlp", "linear")
WORDS = "the cat sat on the mat"


def attached(backbone: Backbone, **settings: Any) -> PrefixTuning:
    """A prefix of four positions with an MLP wide enough to reach any start."""
    torch.manual_seed(0)
    method = PrefixTuning(
        **{"prefix_length": 4, "init": "random", "reparam": "mlp", "reparam_hidden_size": 16, **settings}
    )
    method.provide_start_inputs(toy_start_inputs())
    return method.attach(backbone)


@pytest.mark.parametrize("reparam", REPARAMS)
def test_words_start_as_the_keys_and_values_the_backbone_has_for_them(any_backbone: Backbone, reparam: str) -> None:
    ids = word_ids(any_backbone, WORDS, 4)
    expected = observed_text(any_backbone, ids)

    method = attached(any_backbone, init="text", init_text=WORDS, reparam=reparam)

    _, tensors = method.export()
    for site, table in expected.items():
        assert_close(tensors[f"{site}.keys"], table[:, 0], rtol=1e-4, atol=1e-4)
        assert_close(tensors[f"{site}.values"], table[:, 1], rtol=1e-4, atol=1e-4)
    assert method.notes == [f"starts from the words {any_backbone.tokenizer.decode(ids)!r}"]


@pytest.mark.parametrize("settings", [{"init": "text", "init_text": WORDS}, {"init": "text"}], ids=["own", "task's"])
def test_words_before_a_text_are_as_if_they_had_been_read(backbone: Backbone, settings: dict[str, Any]) -> None:
    # The definition of a prefix: [P; text] with P = the words' own activations is the words and the text.
    ids = word_ids(backbone, WORDS, 4)
    method = attached(backbone, **settings, reparam="none")
    inputs = unpadded()
    adapted = backbone.logits(method.condition(inputs)).detach()
    method.detach()

    read = torch.cat([torch.tensor([ids] * inputs.num_rows), inputs.input_ids], dim=1)

    assert_close(adapted, backbone.logits(ModelInputs(read, torch.ones_like(read)))[:, 4:].detach(), **EQUAL)


def test_too_few_words_are_repeated_and_too_many_are_cut(backbone: Backbone) -> None:
    tokenizer = backbone.tokenizer

    assert tokenizer.decode(word_ids(backbone, "the cat", 6)) == "the cat the cat"
    assert word_ids(backbone, WORDS, 2) == word_ids(backbone, WORDS, 6)[:2]


def test_an_mlp_too_narrow_for_its_target_notes_the_relative_error(backbone: Backbone) -> None:
    method = attached(backbone, init="text", init_text=WORDS, prefix_length=8, reparam_hidden_size=2)

    (note,) = method.notes
    assert "with a relative error of" in note
    assert "%; choose a wider reparametrisation" in note


def test_linear_factors_of_a_low_rank_come_as_near_as_that_rank_can(backbone: Backbone) -> None:
    (table,) = observed_text(backbone, word_ids(backbone, WORDS, 4)).values()
    best = 0.0
    for layer in table:  # (2, kv_heads, prefix, head_dim)
        sizes = torch.linalg.svdvals(layer.permute(2, 0, 1, 3).flatten(1))
        best += float(sizes[2:].square().sum())

    method = attached(backbone, init="text", init_text=WORDS, reparam="linear", reparam_embedding_size=2)

    reached = (method.tables["decoder_self"]().detach() - table).square().sum()
    assert float(reached) == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize("reparam", REPARAMS)
def test_what_started_from_words_still_learns_everywhere(backbone: Backbone, reparam: str) -> None:
    method = attached(backbone, init="text", init_text=WORDS, reparam=reparam)
    before = {name: parameter.detach().clone() for name, parameter in method.trainable_parameters().items()}

    losses = train(backbone, method, steps=30)

    assert losses[-1] < losses[0] - 0.3
    assert not any(torch.equal(p, before[name]) for name, p in method.trainable_parameters().items())


def test_embeddings_start_as_those_of_the_words(backbone: Backbone) -> None:
    ids = word_ids(backbone, WORDS, 4)
    (expected,) = observed_text(backbone, ids).values()

    method = attached(backbone, init="text", init_text=WORDS, reparam="embedding")

    assert_close(method.tables["decoder_self"]().detach(), expected, **EQUAL)
    assert method.num_trainable == 4 * backbone.hidden_size


def test_embeddings_start_as_large_as_a_family_scales_them(tiny_folders: dict[str, Path]) -> None:
    backbone = load_backbone(str(tiny_folders["gemma"]), dtype="float32")
    ids = word_ids(backbone, WORDS, 4)
    (expected,) = observed_text(backbone, ids).values()

    method = attached(backbone, init="text", init_text=WORDS, reparam="embedding")

    assert_close(method.tables["decoder_self"]().detach(), expected, **EQUAL)


def test_embeddings_learn_what_prompt_tuning_would(backbone: Backbone) -> None:
    # Independent of slots: the embeddings themselves, put before those of the text.
    method = attached(backbone, reparam="embedding")
    inputs = unpadded()
    adapted = backbone.logits(method.condition(inputs))
    adapted.logsumexp(-1).sum().backward()
    (rows,) = method.trainable_parameters().values()
    method.detach()

    leaf = rows.detach().clone().requires_grad_()
    words: Any = backbone.model.get_input_embeddings()
    text = words(inputs.input_ids)
    logits = backbone.model(inputs_embeds=torch.cat([leaf.expand(inputs.num_rows, -1, -1), text], dim=1)).logits[:, 4:]
    logits.logsumexp(-1).sum().backward()

    assert_close(adapted, logits, **EQUAL)
    assert_close(rows.grad, leaf.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("length", "change"), [(4, "unchanged"), (3, "cut to 3"), (6, "repeated up to 6")])
@pytest.mark.parametrize("reparam", REPARAMS)
def test_an_exported_prefix_is_a_start(
    backbone: Backbone, reparam: str, length: int, change: str, tmp_path: Path
) -> None:
    earlier = attached(backbone)
    train(backbone, earlier, steps=3)
    export_untasked(earlier, backbone, tmp_path / "bundle")
    _, exported = earlier.export()
    earlier.detach()

    method = attached(
        backbone, init="bundle", init_bundle=str(tmp_path / "bundle"), reparam=reparam, prefix_length=length
    )

    _, tensors = method.export()
    places = [place % 4 for place in range(length)]
    for name, numbers in exported.items():
        assert_close(tensors[name], numbers[:, :, places], rtol=1e-4, atol=1e-4)
    assert method.notes[0].endswith(f"of length 4, {change}")


def test_a_bundle_of_another_geometry_is_refused_before_weights_load(backbone: Backbone, tmp_path: Path) -> None:
    earlier = attached(backbone, layers=[0, 1])
    export_untasked(earlier, backbone, tmp_path / "bundle")
    earlier.detach()

    def problems(**settings: Any) -> list[str]:
        return PrefixTuning(init="bundle", **settings).incompatibilities(backbone)

    assert "must be of the layers all, but" in problems(init_bundle=str(tmp_path / "bundle"))[0]
    assert problems(init_bundle=str(tmp_path / "bundle"), layers=[0, 1]) == []
    assert (
        "`method.init_bundle`: A bundle must be a bundle's folder" in problems(init_bundle=str(tmp_path / "nowhere"))[0]
    )


def test_a_bundle_of_other_sites_is_refused(encoder_decoder: Backbone, tmp_path: Path) -> None:
    earlier = attached(encoder_decoder, sites=["decoder_cross"])
    export_untasked(earlier, encoder_decoder, tmp_path / "bundle")
    earlier.detach()
    settings: dict[str, Any] = {"init": "bundle", "init_bundle": str(tmp_path / "bundle")}

    assert "must have the geometry" in PrefixTuning(**settings).incompatibilities(encoder_decoder)[0]
    assert PrefixTuning(**settings, sites=["decoder_cross"]).incompatibilities(encoder_decoder) == []


@pytest.mark.parametrize("init", [{"init": "random"}, {"init": "text", "init_text": WORDS}], ids=["random", "text"])
@pytest.mark.parametrize("reparam", [*REPARAMS, "embedding"])
def test_a_frozen_sink_is_the_first_token_s_and_stays(backbone: Backbone, reparam: str, init: dict[str, Any]) -> None:
    (own,) = observed_text(backbone, [backbone.tokenizer.bos_token_id]).values()
    method = attached(backbone, frozen_sink=True, reparam=reparam, **init)
    _, before = method.export()

    train(backbone, method, steps=3)

    _, after = method.export()
    assert after["decoder_self.keys"].shape[2] == 4
    assert_close(after["decoder_self.keys"][:, :, :1], own[:, 0], **EQUAL)
    assert_close(after["decoder_self.values"][:, :, :1], own[:, 1], **EQUAL)
    moved = (after["decoder_self.keys"] - before["decoder_self.keys"]).abs().amax(dim=(0, 1, 3))
    assert (moved[1:] > 1e-4).all()


MISFITS: list[tuple[dict[str, Any], str]] = [
    ({"frozen_sink": True, "prefix_length": 1}, "`method.prefix_length` must be > 1"),
    ({"reparam": "embedding", "init": "zero_values"}, "`method.init` must be random or a text with"),
    ({"reparam": "embedding", "init": "attention_matching"}, "`method.init` must be random or a text with"),
    ({"reparam": "embedding", "train_keys": False}, "`method.train_keys` must be true with `method.reparam=embedding`"),
    ({"init": "text"}, "`method.init_text` must have words for `method.init=text`, but is null and the task has no"),
    ({"init": "text", "init_text": " "}, "`method.init_text` must have words for `method.init=text`, but is ' '; wr"),
    ({"init_text": "words"}, "`method.init_text` must be given with `method.init=text` only"),
    ({"init_num_chunks": 2}, "`method.init_num_chunks` must be given with `method.init=sampled_chunks` only"),
    ({"init_num_tokens": 20}, "`method.init_num_tokens` must be given with `method.init=attention_matching` only"),
    ({"init": "attention_matching", "init_num_tokens": 9}, "`method.init_num_tokens` must be at least the prefix's"),
    ({"init": "attention_matching", "init_num_tokens": 999}, "`method.init_num_tokens` must be at least the prefix's"),
    ({"init": "bundle"}, "`method.init_bundle` must be a bundle's folder"),
    ({"init_bundle": "folder"}, "`method.init_bundle` must be given with `method.init=bundle` only"),
]


@pytest.mark.parametrize(("settings", "sentence"), MISFITS, ids=[str(settings) for settings, _ in MISFITS])
def test_settings_that_contradict_each_other_are_named(
    backbone: Backbone, settings: dict[str, Any], sentence: str
) -> None:
    (misfit,) = PrefixTuning(**settings).incompatibilities(backbone)

    assert misfit.startswith(sentence)


def test_attention_is_matched_in_decoder_only_backbones(encoder_decoder: Backbone) -> None:
    (misfit,) = PrefixTuning(init="attention_matching").incompatibilities(encoder_decoder)

    assert misfit.startswith("`method.init=attention_matching` needs a decoder-only backbone, but")


OF_TRAINING_ROWS: list[tuple[dict[str, Any], str]] = [
    ({"init": "training_inputs"}, "starts from 4 tokens of the first training inputs (sha256 "),
    ({"init": "demonstrations"}, "starts from 4 tokens of the first training pairs (sha256 "),
    ({"init": "sampled_chunks", "init_num_chunks": 2}, "starts from 4 tokens of 2 chunks of training pairs (sha256 "),
    ({"init": "attention_matching"}, "starts from 32 tokens of the first training pairs (sha256 "),
]


@pytest.mark.parametrize(("settings", "note"), OF_TRAINING_ROWS, ids=[case["init"] for case, _ in OF_TRAINING_ROWS])
@pytest.mark.parametrize("reparam", ["none", "mlp"])
def test_a_start_from_training_rows_is_the_same_for_a_seed_and_says_what_it_read(
    backbone: Backbone, reparam: str, settings: dict[str, Any], note: str
) -> None:
    method = attached(backbone, reparam=reparam, **settings)
    method.detach()
    again = attached(backbone, reparam=reparam, **settings)

    assert method.notes[0].startswith(note)
    assert again.notes == method.notes
    first, second = method.checkpoint_tensors(), again.checkpoint_tensors()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("init", ["training_inputs", "demonstrations"])
def test_training_rows_start_as_the_keys_and_values_the_backbone_has_for_them(
    any_backbone: Backbone, init: str
) -> None:
    read = training_input_ids if init == "training_inputs" else demonstration_ids
    ids = read(ToyRows(), 4)
    assert ids[:3] == ToyRows().rows([0])[0]["input_ids"][:3]

    _, tensors = attached(any_backbone, init=init, reparam="none").export()

    for site, table in observed_text(any_backbone, ids).items():
        assert_close(tensors[f"{site}.keys"], table[:, 0], **EQUAL)
        assert_close(tensors[f"{site}.values"], table[:, 1], **EQUAL)


def test_a_start_that_a_checkpoint_replaces_reads_nothing(backbone: Backbone) -> None:
    settings: dict[str, Any] = {"init": "demonstrations", "prefix_length": 4, "reparam": "none", "train_keys": False}
    state = attached(backbone, **settings).checkpoint_tensors()
    backbone.slots.release()
    method = PrefixTuning(**settings)
    with pytest.raises(ValueError, match="needs the training rows of a task, but the method was given none"):
        method.attach(backbone)

    method = PrefixTuning(**settings)
    method.skip_start()
    method.attach(backbone).load_trainable_parameters(state)

    assert all(torch.equal(tensor, state[name]) for name, tensor in method.checkpoint_tensors().items())
    assert state.keys() == {"tables.decoder_self.keys", "tables.decoder_self.values.table"}


@pytest.mark.parametrize("init", ["random", "zero_values", "text"])
@pytest.mark.parametrize("reparam", REPARAMS)
def test_keys_that_are_not_trained_keep_their_start(backbone: Backbone, reparam: str, init: str) -> None:
    method = attached(backbone, reparam=reparam, init=init, train_keys=False)
    _, before = method.export()

    losses = train(backbone, method, steps=20)

    _, after = method.export()
    assert losses[-1] < losses[0] - 0.2
    assert torch.equal(after["decoder_self.keys"], before["decoder_self.keys"])
    assert not torch.isclose(after["decoder_self.values"], before["decoder_self.values"]).any(dim=-1).all()
    assert before["decoder_self.values"].any() == (init != "zero_values")


def test_a_random_start_leaves_no_note(backbone: Backbone) -> None:
    assert attached(backbone).notes == []


def test_a_start_from_words_leaves_the_hidden_layer_as_drawn(backbone: Backbone) -> None:
    drawn = attached(backbone)
    drawn.detach()
    fitted = attached(backbone, init="text", init_text=WORDS)
    first, second = drawn.tables["decoder_self"], fitted.tables["decoder_self"]

    assert isinstance(first, MlpTable)
    assert isinstance(second, MlpTable)
    assert_close(second.rows, first.rows, rtol=0, atol=0)
    assert_close(second.hidden.weight, first.hidden.weight, rtol=0, atol=0)
    assert text_logits(backbone, fitted.condition(unpadded()))
