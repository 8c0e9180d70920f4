from pathlib import Path

from ptl_prefix import settings
from ptl_prefix.commands.config import catalog
from ptl_prefix.evaluation.metric import metric_names


def test_a_listing_has_one_line_a_choice_with_the_first_comment_of_its_file(small_conf: Path) -> None:
    assert (
        catalog.listing(catalog.choices("task"))
        == "digits   Digits, which are fewer.\nletters  Letters of the alphabet."
    )


def test_what_speaks_to_hydra_is_no_summary(small_conf: Path) -> None:
    (small_conf / "experiment/few.yaml").write_text("# @package _global_\n# Few letters.\n")

    assert catalog.choices("experiment") == [catalog.Choice("few", "Few letters.")]


def test_a_sentence_names_few_choices_and_the_verb_that_lists_many(small_conf: Path) -> None:
    assert catalog.offered("task") == "digits, letters"
    assert catalog.offered("backbone", separator=" | ") == "local"
    assert catalog.offered("experiment") == "none yet"

    for number in range(21):
        (small_conf / f"task/letters_{number}.yaml").write_text("# Letters.\n")

    assert catalog.offered("task") == "the 23 choices that `ptl-prefix tasks` lists"


def test_the_groups_of_a_primary_config_come_in_its_order_with_its_choices(small_conf: Path) -> None:
    assert catalog.groups_of("train") == {
        "task": "letters",
        "backbone": "local",
        "decoding": "greedy",
        "experiment": None,
    }


def test_the_group_behind_every_catalog_verb_has_choices() -> None:
    for group in catalog.CATALOGS.values():
        assert catalog.choices(group), group


def test_every_choice_of_the_package_says_what_it_is() -> None:
    for group in catalog.group_names():
        for choice in catalog.choices(group):
            assert choice.summary, f"conf/{group}/{choice.name}.yaml"
            assert len(choice.summary) <= 120, f"conf/{group}/{choice.name}.yaml"


def test_every_metric_has_one_line_read_without_importing_it() -> None:
    found = {choice.name: choice.summary for choice in catalog.metrics()}

    assert list(found) == metric_names()
    assert found["exact_match"].startswith("Exact match: ")


def test_hydras_own_settings_are_no_group(small_conf: Path) -> None:
    assert "hydra" not in catalog.group_names()
    assert (settings.conf_dir() / "hydra").is_dir()
