"""A classification task answers with one of its labels, beside requests of other tasks."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.scripted_engine import embedded_tokenizer, made_up_base, made_up_bundle
from support.served_requests import ask, make_bundle, new_request, running_engine

from ptl_prefix.artifacts.manifest import read_manifest, sealed_text
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.serving.api import ChatBody, CompletionBody
from ptl_prefix.serving.engine import Engine
from ptl_prefix.serving.models import Target
from ptl_prefix.serving.planning import make_plan
from ptl_prefix.serving.request import GenerationRequest
from ptl_prefix.serving.served_bundle import ServedBundle

LABELS = ("card", "card_arrival", "lost or stolen card", "top-up")


@pytest.fixture(params=["gpt2", "t5"])
def backbone(request: pytest.FixtureRequest, tiny_folders: dict[str, Path]) -> Backbone:
    return load_backbone(str(tiny_folders[request.param]), name=request.param, dtype="float32")


@pytest.fixture
def engine(backbone: Backbone, tmp_path: Path) -> Iterator[Engine]:
    for seed, name in enumerate(["tickets", "summary"]):
        make_bundle(backbone, tmp_path / name, seed=seed)
    manifest = replace(read_manifest(tmp_path / "tickets"), label_set=LABELS)
    (tmp_path / "tickets/manifest.json").write_text(sealed_text(manifest))
    with running_engine(backbone, tmp_path) as engine:
        yield engine


def request(backbone: Backbone, bundle: ServedBundle | None, source: str, **changes: Any) -> GenerationRequest:
    labels = None if bundle is None else bundle.labels
    longest = 12 if labels is None else labels.longest
    changes = {"labels": labels, "is_stripped": True, "num_logprobs": 2, **changes}
    return new_request(backbone, bundle, source, max_new_tokens=longest, **changes)


def test_every_answer_is_a_label_and_other_tasks_write_what_they_write_alone(
    backbone: Backbone, engine: Engine
) -> None:
    tickets, summary = engine._store.find("tickets"), engine._store.find("summary")
    free = [ask(engine, request(backbone, bundle, "my card")).wait() for bundle in (summary, None)]
    asked = [
        request(backbone, tickets, f"my card {number}", temperature=float(number % 2), seed=number)
        for number in range(24)
    ]
    others = [request(backbone, bundle, "my card") for bundle in (summary, None)]

    answers = [one.wait() for one in [ask(engine, one) for one in (*asked, *others)]]

    for answer in answers[:24]:
        assert answer.finish is not None
        assert (answer.text in LABELS, answer.finish.reason) == (True, "stop"), answer.text
        assert len(answer.logprobs) == len(answer.ids)
    assert len({answer.text for answer in answers[1:24:2]}) > 1  # the sampled ones
    assert [answer.ids for answer in answers[24:]] == [answer.ids for answer in free]


def target(*, labels: tuple[str, ...] | None = LABELS) -> Target:
    tokenizer = embedded_tokenizer()
    bundle = made_up_bundle("tickets", tokenizer)
    bundle = replace(bundle, manifest=replace(bundle.manifest, label_set=labels))
    return Target(bundle=bundle, base=made_up_base(tokenizer))


def planned(body: CompletionBody | ChatBody, target: Target) -> GenerationRequest:
    return make_plan(body, target, request_id="one", client="a", deadline_s=None).requests[0]


@pytest.mark.parametrize(
    ("changes", "holds"), [({}, True), ({"labels_only": True}, True), ({"labels_only": False}, False)]
)
def test_a_client_can_ask_for_free_text(changes: dict[str, Any], holds: bool) -> None:
    text = CompletionBody(model="tickets", prompt="my card", **changes)
    chat = ChatBody.model_validate({"model": "a", "messages": [{"role": "user", "content": "my card"}], **changes})
    for body in (text, chat):
        assert (planned(body, target()).labels is not None) is holds
    raw = text.model_copy(update={"raw": True})
    assert planned(raw, target()).labels is None
    assert planned(text, target(labels=None)).labels is None
    assert planned(text, Target(bundle=None, base=target().base)).labels is None


def test_a_label_is_whole_unless_a_client_allows_fewer_tokens() -> None:
    own = target()
    assert own.bundle is not None and own.bundle.labels is not None
    body = CompletionBody(model="tickets", prompt="my card")
    longest = max(len(own.prompter.encode_target(label)) for label in LABELS)

    assert planned(body, own).sampling.max_new_tokens == own.bundle.labels.longest == longest
    assert planned(body.model_copy(update={"max_tokens": 2}), own).sampling.max_new_tokens == 2
