"""Slots belong to one thread at a time: another gets an error, never somebody else's prefix."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from support.toy_batches import EQUAL, text_logits, unpadded
from support.toy_prefixes import random_states

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.generation import generate
from ptl_prefix.errors import BackboneBusyError
from ptl_prefix.settings import defaults_of

PATIENCE_S = 60
INPUTS = unpadded()


@pytest.fixture
def taken(backbone: Backbone) -> Backbone:
    """A backbone whose slots are taken and empty."""
    backbone.slots.acquire()
    return backbone


def _in_another_thread(work: Callable[[], Any]) -> Any:
    """What `work` returns, or the exception that it raises."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE_S)
    return results[0]


@contextmanager
def _running_elsewhere(backbone: Backbone, work: Callable[[], Any]) -> Iterator[list[Any]]:
    """Another thread is in the midst of a forward of `work` while the body runs; its result is there afterwards."""
    inside, may_go_on = threading.Event(), threading.Event()

    def pause(*_: Any) -> None:
        inside.set()
        may_go_on.wait(PATIENCE_S)

    hook = next(m for m in backbone.model.modules() if hasattr(m, "prefix_slot")).register_forward_pre_hook(pause)
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    assert inside.wait(PATIENCE_S)
    try:
        yield results
    finally:
        may_go_on.set()
        thread.join(PATIENCE_S)
        hook.remove()


def test_a_second_thread_cannot_enter_while_a_forward_runs(taken: Backbone) -> None:
    expected = text_logits(taken, INPUTS)

    with _running_elsewhere(taken, lambda: text_logits(taken, INPUTS)) as results:
        for enter in (
            lambda: taken.logits(INPUTS),
            lambda: taken.slots.fill(random_states(taken, 3)),
            taken.slots.clear,
        ):
            with pytest.raises(BackboneBusyError, match="one forward pass at a time"):
                enter()

    # The refusals took nothing from the forward that ran.
    torch.testing.assert_close(results[0], expected, **EQUAL)
    torch.testing.assert_close(text_logits(taken, INPUTS), expected, **EQUAL)


def test_a_second_thread_cannot_use_what_another_filled(taken: Backbone) -> None:
    assert _in_another_thread(lambda: taken.slots.fill(random_states(taken, 3))) is None

    with pytest.raises(BackboneBusyError, match="another thread's prefix"):
        taken.logits(INPUTS)
    with pytest.raises(BackboneBusyError, match="another thread's prefix"):
        taken.slots.fill(random_states(taken, 4))


def test_states_of_an_ended_thread_are_not_used_by_another(taken: Backbone) -> None:
    def fill() -> int:
        taken.slots.fill(random_states(taken, 3))
        return threading.get_ident()

    idents: list[int] = []

    def ask() -> None:
        idents.append(threading.get_ident())
        taken.logits(INPUTS)

    owner = _in_another_thread(fill)

    # The system soon gives a new thread the ident of one that has ended; it is another thread all the same.
    while owner not in idents and len(idents) < 100:
        assert isinstance(_in_another_thread(ask), BackboneBusyError)


def test_a_refused_thread_does_not_block_the_owner(taken: Backbone) -> None:
    states = random_states(taken, 3)
    taken.slots.fill(states)
    stop = threading.Event()

    def knock() -> None:
        while not stop.is_set():
            with contextlib.suppress(BackboneBusyError):
                taken.slots.fill(states)

    thread = threading.Thread(target=knock)
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(20_000):
            with taken.slots.exclusive():
                pass
    finally:
        stop.set()
        thread.join(PATIENCE_S)
        sys.setswitchinterval(usual)


def test_after_a_refusal_and_a_clear_everyone_may_enter(taken: Backbone) -> None:
    expected = text_logits(taken, INPUTS)
    taken.slots.fill(random_states(taken, 3))
    assert isinstance(_in_another_thread(lambda: taken.logits(INPUTS)), BackboneBusyError)

    taken.slots.clear()

    torch.testing.assert_close(_in_another_thread(lambda: text_logits(taken, INPUTS)), expected, **EQUAL)
    torch.testing.assert_close(text_logits(taken, INPUTS), expected, **EQUAL)


def test_the_slots_are_one_thread_s_from_the_first_to_the_last_step_of_decoding(taken: Backbone) -> None:
    decoding = Decoding(**{**defaults_of("generation/greedy"), "max_new_tokens": 3})
    between_steps: list[Any] = []

    def intrude(*_: Any) -> None:
        between_steps.append(_in_another_thread(lambda: taken.slots.fill(random_states(taken, 3))))

    # Registered after the slots' own hook, so the step's forward has given the backbone back when this runs.
    hook = taken.model.register_forward_hook(intrude)
    generate(taken, INPUTS.with_positions(), decoding, stop_ids=[])
    hook.remove()

    assert len(between_steps) == 3
    assert all(isinstance(result, BackboneBusyError) for result in between_steps)


def test_in_a_storm_of_threads_each_sees_its_own_prefix_or_an_error(taken: Backbone) -> None:
    prefixes = [random_states(taken, 3, seed=seed) for seed in range(4)]
    expected = []
    for states in prefixes:
        taken.slots.fill(states)
        expected.append(text_logits(taken, INPUTS))
        taken.slots.clear()
    wrong: list[int] = []
    served: list[int] = []

    def ask(index: int) -> None:
        for _ in range(25):
            try:
                taken.slots.fill(prefixes[index])
            except BackboneBusyError:
                continue
            logits = text_logits(taken, INPUTS)
            equal = all(torch.allclose(a, b, **EQUAL) for a, b in zip(logits, expected[index], strict=True))
            (served if equal else wrong).append(index)
            taken.slots.clear()

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)

    assert served
    assert not wrong


def test_an_exception_inside_a_forward_gives_the_backbone_back(taken: Backbone) -> None:
    def break_down(*_: Any) -> None:
        raise ArithmeticError("broken on purpose")

    hook = taken.model.get_output_embeddings().register_forward_hook(break_down)
    with pytest.raises(ArithmeticError):
        taken.logits(INPUTS)
    hook.remove()

    assert isinstance(_in_another_thread(lambda: text_logits(taken, INPUTS)), list)


def test_the_last_release_restores_the_model(backbone: Backbone) -> None:
    usual = backbone.config._attn_implementation
    bare = text_logits(backbone, INPUTS)
    backbone.slots.acquire()
    backbone.slots.acquire()
    backbone.slots.fill(random_states(backbone, 3))

    backbone.slots.release()
    assert backbone.config._attn_implementation != usual
    torch.testing.assert_close(text_logits(backbone, INPUTS), bare, **EQUAL)

    backbone.slots.release()
    assert backbone.config._attn_implementation == usual
    assert not any(hasattr(module, "prefix_slot") for module in backbone.model.modules())
    assert all(torch.equal(a, b) for a, b in zip(text_logits(backbone, INPUTS), bare, strict=True))


def test_a_release_without_acquire_is_an_assertion_error(backbone: Backbone) -> None:
    with pytest.raises(AssertionError):
        backbone.slots.release()


def test_two_backbones_have_slots_of_their_own(taken: Backbone, tiny_folders: Any) -> None:
    from ptl_prefix.backbones.spec import load_backbone

    other = load_backbone(str(tiny_folders[taken.family]), dtype="float32")
    bare = text_logits(other, INPUTS)
    other.slots.acquire()

    taken.slots.fill(random_states(taken, 3))

    torch.testing.assert_close(_in_another_thread(lambda: text_logits(other, INPUTS)), bare, **EQUAL)
