"""Whatever is typed, a config is composed or refused with sentences: no setting and no value ends in a traceback."""

from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptl_prefix.artifacts.config_tree import leaves
from ptl_prefix.commands.config import catalog
from ptl_prefix.commands.config.arguments import quoted_override
from ptl_prefix.commands.config.compose import compose_and_check
from ptl_prefix.commands.config.verbs import VERBS
from ptl_prefix.errors import ConfigError

VALUES = [
    *("-1", "0", "1", "3", "0.5", "-0.5", "1.5", "nan", "inf", "1e300", str(10**30), "true", "false", "null"),
    *("abc", "''", "'00:10:00'", "[]", "[abc]", "[1,2]", "[null]", "{}", "{hours: 1}", "${nope}", "${seed}", "???"),
    *("${backbone.name}", "é", "a b", "a/b", "/nowhere/at/all", "interval(1,2)", "choice(1,2)", "a,b", "'a\nb'", "cpu"),
]
NO_CHOICES = ["abc", "null", "${nope}", "x" * 300]
ON_THE_HUB = ["gpt2", "gpt2_medium", "gpt2_large", "bart_large", "flan_t5_small"]
"""Backbones that would be looked for on the hub, which takes seconds."""
ARGUMENTS = ["max_epochs", "max_time", "strategy", "profiler", "deterministic", "gradient_clip_algorithm", "plugins"]


@cache
def keys() -> Sequence[str]:
    """Every setting of a training, and arguments of the trainer that no YAML has."""
    config = compose_and_check(VERBS["train"], ["dry_run=true"]).config
    own = [key for key, _ in leaves(config) if not key.endswith("_target_")]
    return [*own, *(f"trainer.{name}" for name in ARGUMENTS), "backbone.pth", "nothing", "hydra.run.dir"]


def choices() -> list[str]:
    """Choices of every group but the experiments, which need data, and names that are no choice."""
    groups = [group for group in catalog.groups_of("train") if group not in ("experiment", "sweeps")]
    names = {
        group: [choice.name for choice in catalog.choices(group) if choice.name not in ON_THE_HUB] for group in groups
    }
    return [f"{group}={name}" for group in groups for name in (*names[group], *NO_CHOICES)]


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """One or two choices of groups, and up to three settings."""
    chosen = draw(st.lists(st.sampled_from(choices()), max_size=2, unique_by=lambda text: text.split("=")[0]))
    named = draw(st.lists(st.sampled_from(keys()), min_size=1, max_size=3, unique=True))
    return [*chosen, *(f"{key}={draw(st.sampled_from(VALUES))}" for key in named)]


def check(line: Sequence[str]) -> None:
    """Compose and check, as a dry run does before it reads the data; every mistake must be a sentence."""
    overrides = [quoted_override(text, sweeping=False) for text in (*line, "dry_run=true")]
    mistakes: tuple[str, ...] = ("none",)
    try:
        compose_and_check(VERBS["train"], overrides)
    except ConfigError as error:
        mistakes = error.mistakes
    assert mistakes
    assert all(mistake.strip() for mistake in mistakes)


COMMON = {"derandomize": True, "deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


@pytest.fixture(scope="module", autouse=True)
def listed() -> None:
    """List keys and choices before a strategy does: what they import may draw random numbers, which it must not."""
    keys()
    choices()


@settings(max_examples=15, **COMMON)  # type: ignore[arg-type]
@given(line=command_lines())
def test_some_random_configs_end_without_a_traceback(line: list[str]) -> None:
    check(line)


@pytest.mark.slow
@settings(max_examples=80, **COMMON)  # type: ignore[arg-type]
@given(line=command_lines())
def test_80_random_configs_end_without_a_traceback(line: list[str]) -> None:
    check(line)
