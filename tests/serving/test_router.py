"""Both routers: their choices on made-up tasks, what they refuse, and the loading and unloading of bundles."""

import dataclasses
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.made_up_routing import FRUIT, STARS, TOOLS, facts_of, made_up_facts, made_up_states, texts

from ptl_prefix.artifacts.ngram_counts import NUM_COLUMNS, count_ngrams
from ptl_prefix.artifacts.routing_facts import RoutingFacts
from ptl_prefix.serving.hidden_state_router import HiddenStateRouter
from ptl_prefix.serving.ngram_router import NgramRouter
from ptl_prefix.serving.router import coverage, refusal_rate

FOREIGN = "Parliament passed a tax bill yesterday after hours of angry debate"


@pytest.fixture(scope="module")
def facts() -> dict[str, RoutingFacts]:
    return {"fruit": made_up_facts(FRUIT), "tools": made_up_facts(TOOLS), "stars": made_up_facts(STARS)}


@pytest.fixture
def router(facts: dict[str, RoutingFacts]) -> NgramRouter:
    router = NgramRouter(wrong_refusals=0.05)
    router.update(facts)
    return router


def test_texts_go_to_their_task_and_the_nearest_one_comes_first(router: NgramRouter) -> None:
    for name, vocabulary in [("fruit", FRUIT), ("tools", TOOLS), ("stars", STARS)]:
        chosen = [router.choose(text) for text in texts(vocabulary, 100, seed=2)]

        assert {one.name for one in chosen} <= {name, None}
        assert sum(one.name is None for one in chosen) <= 15
        assert {one.scores[0].name for one in chosen} == {name}
        assert {len(one.scores) for one in chosen} == {3}


def test_a_foreign_text_is_refused_with_the_nearest_tasks(router: NgramRouter) -> None:
    decision = router.choose(FOREIGN)

    assert decision.name is None
    assert {one.name for one in decision.scores} == {"fruit", "tools", "stars"}
    assert all(one.coverage <= 0.05 for one in decision.scores)
    assert decision.refusal.startswith("With `model` auto, a text must be like the inputs of a task of this server")
    nearest = decision.scores[0]
    assert f"{nearest.name} ({nearest.coverage:.3f})" in decision.refusal


def test_the_sparse_scores_are_the_log_odds_of_the_whole_table(facts: dict[str, RoutingFacts]) -> None:
    scorer = NgramRouter(wrong_refusals=0.05)._scorer(list(facts.values()))
    counted = count_ngrams([*texts(FRUIT, 5), *texts(STARS, 5), FOREIGN, "apple apple hammer", ""])

    shares = np.stack([one.totals / one.totals.sum() for one in facts.values()], axis=1)
    background = 0.5 * shares.mean(axis=1, keepdims=True) + 0.5 / NUM_COLUMNS
    table = np.log(0.7 * shares / background + 0.3)
    dense = np.zeros((len(counted), NUM_COLUMNS))
    dense[counted.rows, counted.columns] = counted.counts
    wanted = dense[:-1] @ table / counted.lengths[:-1, None]

    found = scorer.scores(counted)
    assert np.allclose(found[:-1], wanted, atol=1e-6)
    assert (found[-1] == -np.inf).all()
    for task in range(len(facts)):
        assert (scorer.own_scores(counted, task) == found[:, task]).all()


def test_of_a_mixed_text_the_larger_part_decides(router: NgramRouter) -> None:
    assert router.choose("apple pear hammer plum cherry grape").scores[0].name == "fruit"
    assert router.choose("hammer saw apple drill nail wrench").scores[0].name == "tools"


@pytest.mark.parametrize("text", ["", " \n", "\ud800"])
def test_a_text_without_words_is_refused(router: NgramRouter, text: str) -> None:
    assert router.choose(text).name is None


def test_of_a_chat_the_last_user_message_decides(router: NgramRouter) -> None:
    chat = '[{"role": "user", "content": "comet moon orbit"}, {"role": "user", "content": "apple pear plum grape"}]'

    assert router.choose(chat) == router.choose("apple pear plum grape")
    assert router.choose(chat).name == "fruit"


def test_loading_and_unloading_change_what_can_be_chosen(facts: dict[str, RoutingFacts]) -> None:
    router = NgramRouter(wrong_refusals=0.05)
    assert router.names == ()
    assert (router.choose("apple pear").name, router.choose("apple pear").scores) == (None, ())
    fruit, stars = "apple pear plum cherry melon grape", "comet moon orbit planet nebula crater"

    router.update({"fruit": facts["fruit"]})
    assert (router.choose(fruit).name, router.choose(stars).name) == ("fruit", None)

    router.update({"stars": facts["stars"], "tools": facts["tools"]})
    assert (router.choose(fruit).name, router.choose(stars).name) == ("fruit", "stars")

    router.update({"fruit": facts["stars"]}, unloaded=["stars"])  # another version under the old name
    assert router.names == ("tools", "fruit")
    assert (router.choose(fruit).name, router.choose(stars).name) == (None, "fruit")

    router.update(unloaded=["fruit", "tools", "nobody"])
    assert router.names == ()


def test_a_bundle_without_facts_or_validation_inputs_is_served_by_name_only(facts: dict[str, RoutingFacts]) -> None:
    router = NgramRouter(wrong_refusals=0.05)

    reasons = router.update({"old": None, "bare": facts_of(["apple"], []), "fruit": facts["fruit"]})

    assert reasons == {
        "old": "was exported without routing",
        "bare": "has no validation inputs, by which a text could be refused",
    }
    assert router.names == ("fruit",)
    assert router.update({"fruit": None}) == {"fruit": "was exported without routing"}
    assert router.names == ()


def test_a_decision_sees_the_tasks_before_or_after_an_update_and_never_between(facts: dict[str, RoutingFacts]) -> None:
    router = NgramRouter(wrong_refusals=0.05)
    router.update({"a": facts["fruit"], "b": facts["tools"]})
    seen, stop = set(), threading.Event()

    def decide() -> None:
        while not stop.is_set():
            seen.add(frozenset(one.name for one in router.choose("apple pear plum").scores))

    thread = threading.Thread(target=decide)
    thread.start()
    for _ in range(20):
        router.update({"c": facts["stars"], "d": facts["tools"]}, unloaded=["a", "b"])
        router.update({"a": facts["fruit"], "b": facts["tools"]}, unloaded=["c", "d"])
    stop.set()
    thread.join()

    assert seen <= {frozenset("ab"), frozenset("cd")}


@settings(max_examples=25)
@given(
    num_validation=st.integers(1, 300),
    wrong_refusals=st.floats(0.01, 0.5),
    seed=st.integers(0, 2**32 - 1),
    heavy_tails=st.booleans(),
)
def test_texts_like_the_validation_inputs_are_refused_at_the_stated_rate(
    num_validation: int, wrong_refusals: float, seed: int, heavy_tails: bool
) -> None:
    rng = np.random.default_rng(seed)
    draw = rng.standard_cauchy if heavy_tails else rng.normal
    rate, num_trials = refusal_rate(num_validation, wrong_refusals), 2000

    # The rate holds over calibrations and texts together, so each trial draws both.
    refused = sum(coverage(np.sort(draw(size=num_validation)), draw()) <= rate for _ in range(num_trials))

    exact = np.floor(rate * (num_validation + 1) + 1e-9) / (num_validation + 1)
    margin = 5 * np.sqrt(exact * (1 - exact) / num_trials) + 1e-3
    assert exact - margin <= refused / num_trials <= exact + margin
    assert exact <= rate + 1e-9


def test_few_validation_inputs_have_a_higher_rate_and_none_refuse_everything() -> None:
    assert refusal_rate(200, 0.05) == 0.05
    assert refusal_rate(9, 0.05) == 0.1
    assert coverage(np.array([1.0, 2.0]), 0.0) <= refusal_rate(2, 0.05)
    assert coverage(np.array([]), 5.0) <= refusal_rate(0, 0.05)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, float("nan")])
def test_a_rate_is_between_0_and_1(rate: float) -> None:
    with pytest.raises(ValueError, match="`wrong_refusals` must be above 0 and below 1"):
        NgramRouter(wrong_refusals=rate)


def with_states(facts: RoutingFacts, centre: float, *, width: int = 6) -> RoutingFacts:
    return dataclasses.replace(facts, states=made_up_states(centre, width=width))


def test_hidden_states_choose_and_refuse_with_several_tasks_and_with_one(facts: dict[str, RoutingFacts]) -> None:
    vectors = {"low": -4.0, "high": 4.0, "far": 40.0, "none": 0.0}
    router = HiddenStateRouter(vector_of=lambda text: np.full(6, vectors[text], dtype=np.float32), wrong_refusals=0.05)

    router.update({"low": with_states(facts["fruit"], -4), "high": with_states(facts["tools"], 4)})
    assert [router.choose(text).name for text in ("low", "high", "none")] == ["low", "high", None]

    router.update(unloaded=["high"])
    assert [router.choose(text).name for text in ("low", "high", "far", "none")] == ["low", None, None, None]


def test_hidden_states_that_are_missing_or_of_another_width_are_named(facts: dict[str, RoutingFacts]) -> None:
    router = HiddenStateRouter(vector_of=lambda text: np.zeros(6, dtype=np.float32), wrong_refusals=0.05)

    reasons = router.update(
        {"a": with_states(facts["fruit"], 1), "b": facts["tools"], "c": with_states(facts["stars"], 1, width=7)}
    )

    assert reasons == {
        "b": "was exported without hidden states (routing=hidden_states)",
        "c": "has hidden states of another width than the other tasks",
    }
    assert router.names == ("a",)
