"""Encoder-decoders go the whole way: from text to a loss, a bundle, and text again."""

from pathlib import Path

import pytest
from support.tiny_runs import Family, TinyRuns

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.backbones.model_inputs import Padding
from ptl_prefix.data.batches import EvalBatches
from ptl_prefix.data.encoding import encode_split
from ptl_prefix.evaluation.loss import target_loss
from ptl_prefix.methods.no_adaptation import NoAdaptation
from ptl_prefix.methods.restore import load_bundle
from ptl_prefix.training.dry_run import estimate
from ptl_prefix.training.train import train

FAMILIES: tuple[Family, ...] = ("bart", "t5")


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyRuns:
    return TinyRuns(tmp_path_factory.mktemp(request.param), request.param)


def test_loss_equals_the_loss_of_transformers(tiny: TinyRuns) -> None:
    plan, backbone = tiny.plan(), tiny.backbone()
    prompter = backbone.prompter(plan.task.prompt)
    encoded = encode_split(plan.task, "train", prompter, max_tokens=160, settings=plan.data)
    start = prompter.decoder_start_ids
    batch = next(iter(EvalBatches(encoded, batch_size=4, padding=backbone.padding(prompter))))
    assert batch.labels is not None
    assert start == [backbone.config.decoder_start_token_id]
    # transformers shifts labels to the right by itself, and puts the start before them.
    labels = batch.labels[:, 1:].contiguous()
    theirs = backbone.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels).loss

    ours = target_loss(backbone, NoAdaptation().attach(backbone), batch)

    assert ours.num_tokens == int((labels >= 0).sum())
    assert float(ours.nats.detach() / ours.num_tokens) == pytest.approx(float(theirs.detach()), rel=1e-5)


def test_a_run_learns_and_leaves_a_bundle_that_writes_what_the_run_wrote(tiny: TinyRuns, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")

    outcome = train(tiny.plan(trainer__max_steps=12, optimizer__lr=0.03), folder)

    record = read_record(folder.record)
    assert record.status == "finished"
    assert record.metrics["val/loss"] < record.metrics["val/loss_before"] - 0.1
    assert outcome.adapted
    backbone = tiny.backbone()
    adaptation = load_bundle(folder.bundle, backbone)
    assert set(adaptation.bundle.manifest.geometry) == {"encoder_self", "decoder_self", "decoder_cross"}
    assert adaptation.bundle.manifest.position_law == "unshifted"
    written = adaptation.generate([scored.source for scored in outcome.adapted])
    assert written == [scored.hypothesis for scored in outcome.adapted]


def test_a_dry_run_knows_its_parameters_and_bytes(tiny: TinyRuns) -> None:
    plan = tiny.plan(method__reparam="none")

    estimated = estimate(plan)

    backbone = tiny.backbone()
    sites = backbone.geometry.values()
    assert estimated.num_trainable == estimated.num_stored == sum(2 * s.num_layers * 3 * s.kv_width for s in sites)
    assert estimated.num_frozen == backbone.num_parameters
    assert estimated.activation_bytes > 0


@pytest.mark.parametrize("site", ["encoder_self", "decoder_self", "decoder_cross"])
def test_a_prefix_at_one_site_alone_learns(tiny: TinyRuns, site: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")

    train(tiny.plan(method__sites=[site], trainer__max_steps=12, optimizer__lr=0.03), folder)

    record = read_record(folder.record)
    assert record.metrics["val/loss"] < record.metrics["val/loss_before"]
    assert record.parameters.stored == 2 * 3 * _site(tiny, site)


def _site(tiny: TinyRuns, name: str) -> int:
    site = tiny.backbone().geometry[name]
    return site.num_layers * site.kv_width


def test_padding_is_counted_in_what_is_read_and_in_what_is_written(tiny: TinyRuns) -> None:
    plan, backbone = tiny.plan(), tiny.backbone()
    prompter = backbone.prompter(plan.task.prompt)
    encoded = encode_split(plan.task, "train", prompter, max_tokens=160, settings=plan.data)
    batches = EvalBatches(encoded, batch_size=4, padding=Padding(1, prompter.decoder_start_ids))

    tokens = positions = 0
    for batch in batches:
        assert batch.decoder_input_ids is not None
        tokens += batch.num_tokens
        positions += batch.input_ids.numel() + batch.decoder_input_ids.numel()

    assert batches.padding_share() == pytest.approx(1 - tokens / positions)
