"""The command of a config composes that config again."""

import dataclasses
import shlex
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from support.made_up_runs import MadeUp

from ptl_prefix import settings
from ptl_prefix.commands.config.arguments import split_command_line
from ptl_prefix.commands.config.compose import compose_and_check
from ptl_prefix.commands.config.plain_values import plain_values
from ptl_prefix.commands.config.reproduce import command_for, overrides_for
from ptl_prefix.commands.config.resolvers import register_resolvers
from ptl_prefix.commands.config.verbs import VERBS

OF_THE_RUN = ("run_id", "dry_run", "resume", "study", "trial")


def composed(*words: str) -> dict[str, Any]:
    """What `ptl-prefix train` makes of a command line."""
    line = split_command_line(words)
    return compose_and_check(VERBS["train"], line.overrides, line.flags).config


def own(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in OF_THE_RUN}


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["seed=3", "method.prefix_length=20", "optimizer.lr=5e-5", "optimizer.betas=[0.9,0.95]"],
        ["method=lora", "method.target_modules=[c_attn,c_proj]", "generation=beam", "trainer.max_time='00:01:00:00'"],
        ["method=prefix_lora", "method.parts.second.rank=4", "method.parts.first.layers=[0,1]"],
        ["method=prefix_lora", "method@method.parts.second=adapter", "method.name=prefix_adapter"],
        [
            "task.num_train_examples=50",
            "task.subset_seed=2",
            "method.init=text",
            "method.init_text='a, b = \"c\" null'",
        ],
        ["method.init=text", "method.init_text=null_and_true", "trainer.gradient_clip_val=1"],
        ["method.init=text", "method.init_text='null'", "backbone.name=mine", "evaluation.num_examples=null"],
    ],
)
def test_the_overrides_of_a_config_compose_it_again(words: list[str]) -> None:
    config = composed(*words)

    overrides = overrides_for(config)

    assert repr(sorted(own(composed(*overrides)).items())) == repr(sorted(own(config).items()))


def test_only_what_differs_from_the_defaults_is_named() -> None:
    assert overrides_for(composed()) == []
    assert overrides_for(composed("method=lora", "generation=beam", "seed=1")) == [
        "method=lora",
        "generation=beam",
        "seed=1",
    ]


def test_an_experiments_run_is_made_again_without_it() -> None:
    def values(*overrides: str) -> dict[str, Any]:
        register_resolvers()
        # Unchecked: its backbone and its data are not here.
        with initialize_config_dir(str(settings.conf_dir()), version_base="1.3"):
            return plain_values(compose("train", list(overrides))).values

    config = values("experiment=xsum_bart_large_prefix")

    overrides = overrides_for(config)

    assert own(values(*overrides)) == own(config)
    assert {"backbone=bart_large", "task=xsum", "generation=xsum", "method.prefix_length=100"} <= set(overrides)


def records(*words: str, seeds: tuple[int, ...] = (0,), subsets: tuple[int, ...] = (0,)) -> list[Any]:
    configs = [composed(*words, f"seed={seed}", f"task.subset_seed={subset}") for seed in seeds for subset in subsets]
    return [dataclasses.replace(MadeUp(seed=config["seed"]).record(), config=config) for config in configs]


def test_the_seeds_of_a_row_are_one_sweep() -> None:
    found = command_for(records("method.prefix_length=5", seeds=(0, 1, 2)))

    assert found == "ptl-prefix train -m method.prefix_length=5 seed=0,1,2"


def test_seeds_and_subsets_are_a_grid_or_else_a_line_each() -> None:
    grid = records("task.num_train_examples=50", seeds=(0, 1), subsets=(3, 4))

    assert command_for(grid).endswith(" seed=0,1 task.subset_seed=3,4")
    assert [line.split()[-1] for line in command_for(grid[:3]).splitlines()] == [
        "task.subset_seed=3",
        "task.subset_seed=4",
        "task.subset_seed=3",
    ]


def test_a_single_run_is_no_sweep_and_words_are_quoted_for_the_shell() -> None:
    command = command_for(records("method.init=text", "method.init_text='two words; rm $HOME'", seeds=(4,)))

    name, verb, *words = shlex.split(command)
    assert (name, verb, "-m" in words, words[-1].startswith("seed=") or "seed=4" in words) == (
        "ptl-prefix",
        "train",
        False,
        True,
    )
    assert composed(*words)["method"]["init_text"] == "two words; rm $HOME"


def test_a_config_that_this_version_cannot_compose_is_refused() -> None:
    config = composed()
    config["method"] = {**config["method"], "reparam_hidden_size": "${oc.env:HOME}"}

    with pytest.raises(ValueError, match="this version of ptl-prefix can compose"):
        overrides_for(config)
