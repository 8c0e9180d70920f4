"""Overrides with several values become dimensions of a search space, or are refused with a sentence."""

from pathlib import Path

import pytest

from ptl_prefix.commands.sweep.parse_space import as_choice, is_swept, parse_dimension
from ptl_prefix.sweeping.search_space import Choice, Dimension, Numbers

COUNT_RANGE = Numbers(low=1, high=7, step=2, is_int=True)


@pytest.mark.parametrize(
    ("written", "dimension"),
    [
        ("task.count=1,2", Choice(values=[1, 2], texts=["1", "2"])),
        ("task.count=choice(3,1)", Choice(values=[3, 1], texts=["3", "1"])),
        ("task.count=sort(3,1)", Choice(values=[1, 3], texts=["1", "3"])),
        ("task.count=range(1,9,2)", COUNT_RANGE),  # Hydra's range ends before its end
        ("task.count=range(1,8,2)", COUNT_RANGE),
        ("task.count=range(7,0,-2)", COUNT_RANGE),
        ("task.count=range(1,4)", Numbers(low=1, high=3, step=1, is_int=True)),
        ("task.count=tag(log,range(1,65))", Numbers(low=1, high=64, log=True, is_int=True)),
        ("task.count=int(interval(1,9))", Numbers(low=1, high=9, is_int=True)),
        ("task.count=int(tag(log,interval(1,9)))", Numbers(low=1, high=9, log=True, is_int=True)),
        ("weight=interval(0,1)", Numbers(low=0.0, high=1.0)),
        ("weight=tag(log,interval(1e-5,1e-2))", Numbers(low=1e-5, high=1e-2, log=True)),
        ("weight=tag(log, interval(1e-5, 1e-2))", Numbers(low=1e-5, high=1e-2, log=True)),
        ("weight=range(0.1,0.8,0.1)", Numbers(low=0.1, high=0.7, step=0.1)),
        ("weight=1e-3,0.5", Choice(values=[1e-3, 0.5], texts=["0.001", "0.5"])),
        ("task.data_dir=null,conf", Choice(values=[None, "conf"], texts=["null", "conf"])),
        ("name=choice('true',true)", Choice(values=["true", True], texts=["'true'", "true"])),
        ("name='1',b,''", Choice(values=["1", "b", ""], texts=["'1'", "b", "''"])),
        ("name=choice([1,2],{a:x})", Choice(values=["[1,2]", "{a:x}"], texts=["[1,2]", "{a:x}"])),
        ("task.name=choice(a,'1','a b')", Choice(values=["a", "1", "a b"], texts=["a", "'1'", "a b"])),
        ("task=letters,digits", Choice(values=["letters", "digits"], texts=["letters", "digits"])),
    ],
)
def test_hydras_grammar_is_a_search_space(written: str, dimension: Dimension) -> None:
    mistakes: list[str] = []

    assert parse_dimension(written, mistakes) == (written.split("=")[0].lstrip("+"), dimension)
    assert mistakes == []


@pytest.mark.parametrize(
    ("written", "key", "facts"),
    [
        ("task.count=choice(1,2,1)", "task.count", ["differ", "1 and 1"]),
        ("task.count=1,1.0", "task.count", ["differ", "1 and 1.0"]),
        ("task.count=1,true", "task.count", ["differ", "1 and true"]),
        ("task.count=nan,1", "task.count", ["finite", "nan,1"]),
        ("task.count=interval(1,inf)", "task.count", ["finite", "1.0 and inf"]),
        ("task.count=interval(9,1)", "task.count", ["range", "9.0 to 1.0"]),
        ("task.count=range(5,1)", "task.count", ["range(5,1) is empty"]),
        ("task.count=tag(log,interval(0,1))", "task.count", ["log", "above 0", "0.0"]),
        ("task.count=tag(log,range(1,9,2))", "task.count", ["log", "steps", "interval"]),
        ("task.count=tag(log,choice(1,2))", "task.count", ["log", "list"]),
        ("task.count=tag(fast,range(1,9))", "task.count", ["tag", "fast"]),
        ("task.count=shuffle(range(1,9))", "task.count", ["shuffle", "hydra/sweeper/sampler=exhaustive"]),
        ("run_id=a,b", "run_id", ["cannot search"]),
        ("dry_run=true,false", "dry_run", ["cannot search"]),
        ("hydra.sweeper.n_trials=1,2", "hydra.sweeper.n_trials", ["cannot search"]),
        ("~task=1,2", "task", ["cannot search"]),
    ],
)
def test_an_override_that_cannot_be_searched_is_refused(written: str, key: str, facts: list[str]) -> None:
    mistakes: list[str] = []

    assert parse_dimension(written, mistakes)[1] is None
    (mistake,) = mistakes
    assert mistake.startswith(f"`{key}`")
    assert [fact for fact in facts if fact not in mistake] == [], mistake


@pytest.mark.parametrize(
    ("written", "several"),
    [
        ("seed=1", False),
        ("seed=[1,2]", False),
        ("seed='1,2'", False),
        ("seed=1,2", True),
        ("+seed=1,2", True),
        ("seed=interval(1,2)", True),
        ("seed=choice(1", False),
    ],
)
def test_an_override_with_several_values_is_recognised(written: str, several: bool) -> None:
    assert is_swept(written) is several


@pytest.mark.parametrize(
    ("written", "listed"),
    [
        ("lr=tag(log,interval(1e-5,1e-2))", "lr=choice(1e-05,0.01)"),
        ("count=range(1,9,2)", "count=choice(1,7)"),
        ("name=choice(a,'b, c')", "name=choice(a,'b, c')"),
        ("count=choice(1,1)", "count=choice(1,1)"),
    ],
)
def test_the_values_to_check_can_be_listed(written: str, listed: str) -> None:
    assert as_choice(written) == listed


def test_a_pattern_is_the_choices_of_the_group_that_it_fits(small_conf: Path) -> None:
    both, one = (
        Choice(values=["digits", "letters"], texts=["digits", "letters"]),
        Choice(values=["letters"], texts=["letters"]),
    )
    mistakes: list[str] = []

    assert parse_dimension("task=glob(*)", mistakes) == ("task", both)
    assert parse_dimension("task=glob(*,exclude=d*)", mistakes) == ("task", one)
    assert mistakes == []
    assert parse_dimension("task=glob(x*)", mistakes) == ("task", None)
    assert mistakes == ["`task`: there must be at least one value, but task=glob(x*) matches none."]


def test_the_examples_on_which_trials_are_ranked_are_not_searched() -> None:
    mistakes: list[str] = []

    assert parse_dimension("training.validation_examples=50,100", mistakes) == ("training.validation_examples", None)
    (mistake,) = mistakes
    assert "`training.validation_examples` must be the same for all trials" in mistake
