"""Prompt tuning: what is read, where it starts, the room it takes, and what it refuses."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from support.no_task import NoTask, export_untasked
from support.tiny_backbones import MAX_POSITIONS
from support.tiny_runs import TinyRuns
from support.toy_batches import (
    EQUAL,
    padded,
    random_ids,
    text_logits,
    texts,
    train,
    training_batch,
    unpadded,
    written_mask,
)
from torch import Tensor
from torch.testing import assert_close

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.generation import generate
from ptl_prefix.backbones.model_inputs import ModelInputs, Padding, prompt_batch
from ptl_prefix.backbones.spec import BackboneSpec, load_backbone
from ptl_prefix.errors import BundleError, DataError
from ptl_prefix.evaluation.loss import target_loss
from ptl_prefix.methods.prompt_tuning import PromptTuning
from ptl_prefix.methods.restore import load_bundle
from ptl_prefix.settings import defaults_of

LENGTH = 4


def attached(backbone: Backbone, **settings: Any) -> PromptTuning:
    """A prompt of four rows."""
    torch.manual_seed(0)
    return PromptTuning(**{"prompt_length": LENGTH, **settings}).attach(backbone)


def rows_of(method: PromptTuning) -> Tensor:
    assert method.rows is not None
    return method.rows


def _read_with_embeddings(backbone: Backbone, rows: Tensor, inputs: ModelInputs) -> Tensor:
    """Rows and text as embeddings, padded on the right, through transformers' own forward."""
    model: Any = backbone.model
    words = model.get_input_embeddings()(inputs.input_ids)
    embeddings = torch.cat([rows.expand(len(words), -1, -1), words], dim=1)
    mask = torch.nn.functional.pad(inputs.attention_mask, (LENGTH, 0), value=1)
    if inputs.decoder_input_ids is None:
        logits: Tensor = model(inputs_embeds=embeddings, attention_mask=mask).logits
        return logits[:, LENGTH:]
    logits = model(
        inputs_embeds=embeddings,
        attention_mask=mask,
        decoder_input_ids=inputs.decoder_input_ids,
        decoder_attention_mask=inputs.decoder_attention_mask,
    ).logits
    return logits


UNWINDOWED = ("bart", "gemma", "gpt2", "gpt_neox", "llama", "mbart", "mt5", "opt", "qwen3", "t5")
"""Families of the tiny backbones whose attention sees everything before it."""


def test_rows_are_read_as_if_they_were_embeddings_of_tokens(any_backbone: Backbone) -> None:
    if any_backbone.family not in UNWINDOWED:
        pytest.skip("a prompt would fall out of its windows; ours does not")
    method, inputs = attached(any_backbone), padded(texts(), "right", any_backbone)
    mask = written_mask(inputs).bool()
    adapted = any_backbone.logits(method.condition(inputs))[mask]
    adapted.logsumexp(-1).sum().backward()
    method.detach()

    leaf = rows_of(method).detach().clone().requires_grad_()
    expected = _read_with_embeddings(any_backbone, leaf, inputs)[mask]
    expected.logsumexp(-1).sum().backward()

    assert_close(adapted, expected, **EQUAL)
    assert_close(rows_of(method).grad, leaf.grad, rtol=1e-4, atol=1e-4)


def test_a_causal_backbone_reads_the_rows_once_a_step_not_once_a_row(backbone: Backbone) -> None:
    method, widths = attached(backbone), []
    hook = backbone.model.get_output_embeddings().register_forward_pre_hook(
        lambda module, arguments: widths.append(tuple(arguments[0].shape[:2]))
    )

    backbone.logits(method.condition(unpadded(num_rows=3, length=6)))

    hook.remove()
    assert widths == [(3, 6)]


def test_random_rows_are_even_between_minus_a_half_and_a_half(backbone: Backbone) -> None:
    rows = rows_of(attached(backbone, prompt_length=60, init="random")).detach()

    assert rows.abs().max() <= 0.5
    quarters = torch.histc(rows, bins=4, min=-0.5, max=0.5) / rows.numel()
    assert_close(quarters, torch.full((4,), 0.25), rtol=0, atol=0.05)


def test_sampled_rows_are_embeddings_of_tokens_none_twice_and_none_special(any_backbone: Backbone) -> None:
    rows = rows_of(attached(any_backbone, prompt_length=40)).detach()

    every = any_backbone.embed(torch.arange(any_backbone.config.vocab_size)).float()
    ids = torch.cdist(rows, every).argmin(dim=1)
    assert_close(rows, every[ids], rtol=0, atol=0)
    assert len(set(ids.tolist())) == 40
    assert not set(ids.tolist()) & set(any_backbone.tokenizer.all_special_ids)


def test_samples_repeat_where_there_are_not_enough_tokens(
    tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ptl_prefix.methods.prompt_start._NUM_COMMON", 3)
    backbone = load_backbone(str(tiny_folders["llama"]), dtype="float32")

    rows = rows_of(attached(backbone, prompt_length=7)).detach()

    assert len(rows.unique(dim=0)) == 3


def test_words_start_as_their_embeddings(any_backbone: Backbone) -> None:
    ids = any_backbone.tokenizer("the cat", add_special_tokens=False).input_ids

    method = attached(any_backbone, init="text", init_text="the cat", prompt_length=len(ids))

    assert_close(rows_of(method).detach(), any_backbone.embed(torch.tensor(ids)), rtol=0, atol=0)
    assert method.notes == ["starts from the words 'the cat'"]


def test_a_label_starts_as_the_mean_of_its_tokens_and_other_rows_as_samples(backbone: Backbone) -> None:
    method = attached(backbone, init="labels", init_labels=["the cat", "pub"])

    for row, label in zip(rows_of(method).detach(), ["the cat", "pub"], strict=False):
        ids = torch.tensor(backbone.tokenizer(label, add_special_tokens=False).input_ids)
        assert_close(row, backbone.embed(ids).mean(dim=0))
    words = backbone.embed(torch.arange(backbone.config.vocab_size))
    assert all((words == row).all(dim=1).any() for row in rows_of(method).detach()[2:])
    assert method.notes == ["starts from the labels 'the cat', 'pub'"]


def test_labels_without_a_row_are_noted(backbone: Backbone) -> None:
    method = attached(backbone, init="labels", init_labels=["a", "b", "c"], prompt_length=2)

    assert method.notes == ["starts from the labels 'a', 'b'; 1 more have no row, choose a longer prompt for them"]


class LabelledTask(NoTask):
    label_set = ("yes", "no")


def test_a_plan_provides_the_labels_of_its_task(tmp_path: Path, backbone: Backbone) -> None:
    method = PromptTuning(prompt_length=LENGTH, init="labels")
    plan = dataclasses.replace(TinyRuns(tmp_path).plan(), method=method)
    assert any("the task has no closed set of targets" in problem for problem in plan.problems())

    plan = dataclasses.replace(plan, task=LabelledTask())

    assert not any("labels" in problem for problem in plan.problems())
    assert method.attach(backbone).notes == ["starts from the labels 'yes', 'no'"]


class DamagedTask(NoTask):
    @property
    def label_set(self) -> tuple[str, ...]:  # type: ignore[override]
        raise DataError("categories.json is damaged; mend it.")


def test_unreadable_labels_are_a_problem_only_for_init_labels(tmp_path: Path) -> None:
    plan = dataclasses.replace(TinyRuns(tmp_path).plan(), task=DamagedTask())
    assert not any("damaged" in problem for problem in plan.problems())

    plan = dataclasses.replace(plan, method=PromptTuning(prompt_length=LENGTH, init="labels"))

    assert "`method.init=labels` needs the task's labels, but: categories.json is damaged; mend it." in plan.problems()


MISFITS: list[tuple[dict[str, Any], str]] = [
    ({"init": "text"}, "`method.init_text` must have words for `method.init=text`, but is null and the task has no"),
    ({"init": "text", "init_text": " "}, "`method.init_text` must have words for `method.init=text`, but is ' '; wr"),
    ({"init_text": "words"}, "`method.init_text` must be given with `method.init=text` only, but init is vocabulary."),
    ({"init": "labels"}, "`method.init=labels` needs labels"),
    ({"init": "labels", "init_labels": ["a", " "]}, "`method.init_labels` must each have words"),
    ({"init_labels": ["a"]}, "`method.init_labels` must be given with `method.init=labels` only"),
    ({"prompt_length": MAX_POSITIONS}, f"`method.prompt_length` must be less than the {MAX_POSITIONS} pos"),
]


@pytest.mark.parametrize(("settings", "sentence"), MISFITS, ids=[str(settings) for settings, _ in MISFITS])
def test_settings_that_do_not_fit_are_named(backbone: Backbone, settings: dict[str, Any], sentence: str) -> None:
    (misfit,) = PromptTuning(
        **settings if "prompt_length" in settings else {"prompt_length": 4, **settings}
    ).incompatibilities(backbone)

    assert misfit.startswith(sentence)


def test_an_encoder_s_rows_and_the_source_must_fit_its_learned_positions(tiny_folders: dict[str, Path]) -> None:
    backbone = load_backbone(str(tiny_folders["bart"]), dtype="float32")
    method = attached(backbone)
    room = backbone.position_budget(reserved=method.position_offset, max_new_tokens=5)
    assert room == MAX_POSITIONS - LENGTH
    padding = Padding(2, backbone.prompter(NoTask.prompt).decoder_start_ids)
    settings = five_tokens()

    fitting = prompt_batch([random_ids(room, seed=1)], padding)
    assert len(generate(backbone, method.condition(fitting), settings, stop_ids=[])[0]) == 5

    too_long = prompt_batch([random_ids(room + 1, seed=1)], padding)
    with pytest.raises(ValueError, match=rf"prompt must fit the {MAX_POSITIONS} positions"):
        generate(backbone, method.condition(too_long), settings, stop_ids=[])


def five_tokens() -> Decoding:
    return Decoding(**{**defaults_of("generation/greedy"), "max_new_tokens": 5})


def test_a_bundle_holds_the_rows_alone_and_writes_what_was_trained(encoder_decoder: Backbone, tmp_path: Path) -> None:
    method = attached(encoder_decoder)
    train(encoder_decoder, method, steps=5, lr=0.3)
    bundle = export_untasked(method, encoder_decoder, tmp_path / "bundle")
    assert {name: tensor.shape for name, tensor in bundle.tensors.items()} == {
        "rows": (LENGTH, encoder_decoder.hidden_size)
    }
    sources = ["the cat", "in the city there is a pub"]
    prompter = encoder_decoder.prompter(NoTask.prompt)
    prompts = [prompter.encode_source(source, None) for source in sources]
    inputs = method.condition(prompt_batch(prompts, encoder_decoder.padding(prompter)))
    written = generate(encoder_decoder, inputs, five_tokens(), prompter.stop_ids)
    method.detach()

    adaptation = load_bundle(tmp_path / "bundle", encoder_decoder)

    assert adaptation.generate(sources) == [prompter.decode(ids) for ids in written]
    assert adaptation.generate(sources, num_beams=2)


def test_rows_of_another_shape_are_refused(backbone: Backbone, tmp_path: Path) -> None:
    method = attached(backbone)
    method.rows = torch.nn.Parameter(rows_of(method).detach()[:2])
    export_untasked(method, backbone, tmp_path / "bundle")
    method.detach()

    with pytest.raises(BundleError, match="no tensor has the dimension `prompt_length`, which is 4"):
        load_bundle(tmp_path / "bundle", backbone)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_checkpointed_and_kept_activations_give_the_same_gradients(tiny_folders: dict[str, Path], family: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        backbone = load_backbone(str(tiny_folders[family]), dtype="float32", gradient_checkpointing=checkpointing)
        method = attached(backbone)
        target_loss(backbone, method, training_batch(backbone)).nats.backward()
        gradients.append(rows_of(method).grad)

    assert_close(gradients[1], gradients[0], **EQUAL)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_a_bfloat16_backbone_trains_rows_in_float32(tiny_folders: dict[str, Path], family: str) -> None:
    exact, rounded = (load_backbone(str(tiny_folders[family]), dtype=dtype) for dtype in ("float32", "bfloat16"))
    first, second = attached(exact), attached(rounded)
    with torch.no_grad():
        rows_of(second).copy_(rows_of(first))

    losses = train(exact, first, steps=10, lr=3e-2), train(rounded, second, steps=10, lr=3e-2)

    assert rows_of(second).dtype == torch.float32
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert text_logits(rounded, second.condition(unpadded(backbone=rounded)))[0].dtype == torch.bfloat16


def test_a_dry_run_needs_no_weights(tiny_folders: dict[str, Path]) -> None:
    for init in (
        {"init": "random"},
        {},
        {"init": "text", "init_text": "the cat"},
        {"init": "labels", "init_labels": ["a"]},
    ):
        sketch = BackboneSpec(name="tiny", path=str(tiny_folders["bart"])).load_shape()

        assert attached(sketch, **init).num_trainable == LENGTH * 32
