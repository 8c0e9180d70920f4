"""Names are looked up and never opened; `auto` asks the router."""

from dataclasses import dataclass

import pytest
from support.scripted_engine import ListedStore, embedded_tokenizer, made_up_base, made_up_bundle

from ptl_prefix.serving.api_error import ApiError
from ptl_prefix.serving.models import Models

TOKENIZER = embedded_tokenizer()
TOWNS = made_up_bundle("towns", TOKENIZER)


@dataclass(frozen=True)
class Score:
    name: str
    coverage: float


@dataclass(frozen=True)
class Decision:
    name: str | None
    scores: tuple[Score, ...]
    refusal: str = "No task is like this text."


class NamedTask:
    """Chooses the task that the text names."""

    def choose(self, text: str) -> Decision:
        return Decision("towns" if "town" in text else None, (Score("towns", 0.25), Score("rivers", 0.1)))


@pytest.fixture
def models() -> Models:
    return Models(made_up_base(TOKENIZER), ListedStore([TOWNS, made_up_bundle("rivers", TOKENIZER)]), NamedTask())


def test_a_name_a_version_and_the_base(models: Models) -> None:
    assert models.target("towns", "").bundle is TOWNS
    assert models.target(TOWNS.model_id, "").bundle is TOWNS
    assert models.target("tiny", "").bundle is None
    assert models.target("auto", "a town").bundle is TOWNS


@pytest.mark.parametrize("name", ["", "../towns", "/towns", "towns@", "towns@../x", "Towns", "towns@0", "@", "a" * 200])
def test_another_name_is_refused_with_those_there_are(models: Models, name: str) -> None:
    with pytest.raises(ApiError) as refused:
        models.target(name, "")

    assert (refused.value.status, refused.value.code) == (404, "model_not_found")
    assert "tiny, rivers, towns" in refused.value.message


def test_a_text_that_is_near_no_task_is_refused_with_the_nearest(models: Models) -> None:
    with pytest.raises(ApiError) as refused:
        models.target("auto", "a lake")

    assert refused.value.status == 400
    assert refused.value.message == "No task is like this text."
    assert refused.value.body["error"]["nearest"][0] == {"name": "towns", "coverage": 0.25}


@pytest.mark.parametrize("name", ["", "../towns", "/towns", "towns@../x", "towns@", "@", "a" * 65, "towns\n", ".towns"])
def test_what_is_no_name_does_not_reach_the_store(name: str) -> None:
    store = ListedStore([TOWNS])
    with pytest.raises(ApiError):
        Models(made_up_base(TOKENIZER), store).target(name, "")
    assert store.asked == []


def test_without_a_router_auto_is_no_model() -> None:
    models = Models(made_up_base(TOKENIZER), ListedStore([TOWNS]))
    for ask in (lambda: models.target("auto", "a town"), lambda: models.card("auto")):
        with pytest.raises(ApiError) as refused:
            ask()
        assert refused.value.status == 404
    assert [card["id"] for card in models.cards()] == ["tiny", "towns"]


def test_the_card_of_a_task(models: Models) -> None:
    card = models.card("towns")

    assert [one["id"] for one in models.cards()] == ["tiny", "auto", "rivers", "towns"]
    assert card in models.cards()
    expected = {
        "root": TOWNS.model_id,
        "parent": "tiny",
        "prefix_length": 5,
        "prefix_bytes": 2560,
        "created": 1795953600,
    }
    assert card.items() >= {**expected, "hash": TOWNS.version, "metrics": {"test/bleu": 61.5}}.items()
    assert models.card("tiny")["parent"] is None
