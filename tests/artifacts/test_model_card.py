"""The model card: its header for programs, its body for people, and nothing that a name could smuggle into either."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from ptl_prefix.artifacts.bundle import BundleContents, read_bundle, write_bundle
from ptl_prefix.artifacts.manifest import BackboneIdentity
from ptl_prefix.artifacts.model_card import CARD_FILE, CardFacts, CardMetric, card_text, write_card
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.errors import BundleError

BLEU = MetricInfo(scale="0-100", direction="maximize", version="1", library="ptl_prefix")


@pytest.fixture
def facts(identity: BackboneIdentity) -> CardFacts:
    return CardFacts(
        kind="bundle",
        method="prefix_tuning",
        settings={"prefix_length": 5, "layers": None},
        task="e2e_nlg",
        task_version="1",
        backbone=replace(identity, name="gpt2_medium", path="openai-community/gpt2-medium"),
        prompt=PromptFormat(before="", between=" ##"),
        num_stored=20480,
        num_trained=1184768,
        metrics={
            "val/loss": CardMetric(value=0.25),
            "test/bleu": CardMetric(value=68.25, info=BLEU, interval=(66.5, 70.0), num_examples=630),
        },
        command="ptl-prefix train seed=1",
        data_licence="CC BY-SA 4.0",
    )


def header_of(text: str) -> Any:
    return ModelCard(text).data


def test_the_header_is_what_the_hub_reads(facts: CardFacts) -> None:
    data = header_of(card_text(facts))

    assert data.base_model == "openai-community/gpt2-medium"
    assert (data.library_name, data.base_model_relation) == ("ptl_prefix", "adapter")
    loss, bleu = data.eval_results
    assert (loss.metric_type, loss.dataset_split, loss.metric_value) == ("loss", "validation", 0.25)
    assert (bleu.metric_type, bleu.dataset_split, bleu.metric_value) == ("bleu", "test", 68.25)
    assert bleu.metric_name == "bleu (95% interval 66.5 to 70, 630 examples)"


def test_the_body_has_what_a_reader_needs(facts: CardFacts) -> None:
    text = card_text(facts)

    for line in (
        "| `test/bleu` | 68.25 | 66.5 to 70 | 630 | `0-100`, higher is better |",
        "| settings | `prefix_length=5` |",
        "| parameters trained | 1,184,768 |",
        "| parameters stored | 20,480 |",
        "backbone = load_backbone('openai-community/gpt2-medium')",
        'bundle = load_bundle("hub:<user>/<name>", backbone)',
        "ptl-prefix train seed=1",
        "- data: `CC BY-SA 4.0`",
    ):
        assert line in text.splitlines(), text


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/home/me/secret/model", None),
        ("~/secret/model", None),
        ("/home/me/secret/hub/models--org--model/snapshots/" + "0" * 40, "org/model"),
        ("tiny_gpt2", None),
    ],
)
def test_no_folder_of_this_machine_is_named(facts: CardFacts, path: str, named: str | None) -> None:
    text = card_text(replace(facts, backbone=replace(facts.backbone, path=path)))

    assert header_of(text).base_model == named
    assert "secret" not in text


HOSTILE = "x`\n---\nlicense: mit\n# <script> | [a](b) \x1b[0m ```"


def structure(text: str) -> list[str]:
    """The elements of a card that a browser shows, without the text in them."""
    tokens = MarkdownIt("commonmark").enable("table").parse(ModelCard(text).text)
    return [inner.type for token in tokens for inner in (token, *(token.children or [])) if inner.type != "text"]


@pytest.mark.parametrize("field", ["method", "task", "task_version", "command", "data_licence", "backbone_licence"])
def test_a_name_is_neither_a_key_nor_markup(facts: CardFacts, field: str) -> None:
    plain = replace(facts, backbone_licence="MIT")

    text = card_text(replace(plain, **{field: HOSTILE}))

    assert header_of(text).license is None
    assert structure(text) == structure(card_text(plain))
    assert "\x1b" not in text


def test_settings_and_metrics_of_a_hostile_bundle_are_code(facts: CardFacts) -> None:
    plain = replace(facts, settings={"a": "b"}, metrics={"test/a": CardMetric(value=1.0)})
    hostile = replace(facts, settings={HOSTILE: HOSTILE}, metrics={f"test/{HOSTILE}": CardMetric(value=1.0)})

    assert header_of(card_text(hostile)).license is None
    assert structure(card_text(hostile)) == structure(card_text(plain))


def test_an_edited_card_changes_nothing_that_is_read(
    facts: CardFacts, tmp_path: Path, stated: dict[str, object]
) -> None:
    contents = BundleContents(tensors={}, **stated)  # type: ignore[arg-type]
    before = write_bundle(tmp_path / "bundle", contents)
    write_card(tmp_path / "bundle", facts)
    (tmp_path / "bundle" / CARD_FILE).write_text("---\nmethod: lora\n---\n")

    assert read_bundle(tmp_path / "bundle").manifest == before.manifest
    write_bundle(tmp_path / "bundle", contents)
    assert not (tmp_path / "bundle" / CARD_FILE).exists()


def test_a_folder_with_nothing_but_a_readme_is_not_replaced(tmp_path: Path, stated: dict[str, object]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / CARD_FILE).write_text("# My project")

    with pytest.raises(BundleError, match=r"also holds 'README\.md'"):
        write_bundle(tmp_path / "mine", BundleContents(tensors={}, **stated))  # type: ignore[arg-type]
