from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from ptl_prefix.commands.config.arguments import quoted, quoted_override, split_command_line


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def hydra_reads(override: str) -> object:
    return OverridesParser.create().parse_override(override).value()


def test_words_without_an_equal_sign_are_arguments_wherever_they_stand() -> None:
    line = split_command_line(["bundle", "seed=1", "a text", "-m", "task=x"])

    assert line.arguments == ("bundle", "a text")
    assert line.overrides == ("seed=1", "task=x")
    assert line.flags.multirun


@pytest.mark.parametrize(
    ("word", "argument"),
    [
        ("'name = x'", "name = x"),
        ('"a=b"', "a=b"),
        ("say 'a=b' twice", "say 'a=b' twice"),
        (r"a\=b", r"a\=b"),
        ("it's all right", "it's all right"),
    ],
)
def test_a_quoted_equal_sign_makes_no_setting(word: str, argument: str) -> None:
    line = split_command_line([word])

    assert (line.arguments, line.overrides) == ((argument,), ())


def test_an_apostrophe_quotes_nothing() -> None:
    assert split_command_line(["it's a=b"]).overrides == ("it's a=b",)


def test_everything_behind_two_dashes_is_an_argument() -> None:
    line = split_command_line(["seed=1", "--", "name=The Eagle", "-m", "--"])

    assert line.arguments == ("name=The Eagle", "-m", "--")
    assert line.overrides == ("seed=1",)
    assert not line.flags.multirun


def test_an_existing_path_with_an_equal_sign_is_an_argument(in_empty_folder: Path) -> None:
    (in_empty_folder / "lr=1,seed=2").mkdir()

    assert split_command_line(["lr=1,seed=2", "lr=1"]).arguments == ("lr=1,seed=2",)


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("resume=/tmp/a b,c=d/x", "/tmp/a b,c=d/x"),
        ("resume=../it's/x", "../it's/x"),
        ("resume=runs/(1)/[x]/{y}", "runs/(1)/[x]/{y}"),
        ("resume=/home/Zoë/x", "/home/Zoë/x"),
        ("resume=a=b", "a=b"),
        ("resume=/tmp/plain", "/tmp/plain"),
        ("resume='/tmp/a,b'", "/tmp/a,b"),
    ],
)
def test_a_path_reaches_the_config_as_it_was_typed(typed: str, value: str) -> None:
    assert hydra_reads(quoted_override(typed, sweeping=False)) == value


@pytest.mark.parametrize(
    "override",
    [
        "a=1",
        "a=null",
        "a=[1,2]",
        "a={b:1}",
        "a=true",
        "a='x y'",
        "a=${b.c}",
        "a=x y",
        "a=",
        "+a=1e-3",
        "a=[/x=y]",
        "a=1,2",
    ],
)
def test_what_is_hydras_own_syntax_stays_as_it_is(override: str) -> None:
    assert quoted_override(override, sweeping=False) == override


def test_a_sweep_stays_a_sweep_of_quoted_values() -> None:
    assert quoted_override("a=1,2", sweeping=True) == "a=1,2"
    assert quoted_override("a=[1,2],[3]", sweeping=True) == "a=[1,2],[3]"
    assert quoted_override("a=range(1,5)", sweeping=True) == "a=range(1,5)"
    assert quoted_override("a=/x/y,z=d/x", sweeping=True) == "a=/x/y,'z=d/x'"


def test_a_sweep_whose_text_is_an_existing_path_is_that_path(in_empty_folder: Path) -> None:
    (in_empty_folder / "x,y").mkdir()

    assert quoted_override("a=x,y", sweeping=True) == "a='x,y'"


def test_a_file_named_like_a_number_does_not_turn_the_number_into_a_text(in_empty_folder: Path) -> None:
    (in_empty_folder / "0").touch()

    assert quoted_override("seed=0", sweeping=False) == "seed=0"


def test_the_home_folder_is_found(monkeypatch: pytest.MonkeyPatch, in_empty_folder: Path) -> None:
    monkeypatch.setenv("HOME", "/home/me")

    assert hydra_reads(quoted_override("resume=~/runs/x", sweeping=False)) == "/home/me/runs/x"


@given(
    st.text("'\"\\ab ", min_size=1)
    | st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(lambda text: "${" not in text)
)
def test_every_quoted_text_is_read_back_by_hydra(text: str) -> None:
    assert hydra_reads(f"key={quoted(text)}") == text


@given(st.text("ab01 /.=,'\"\\()[]{}~é:$-", min_size=1, max_size=12))
def test_every_path_below_a_folder_is_read_back_by_hydra(name: str) -> None:
    path = f"./{name}x"
    if "${" in path or "\\" in path:
        return  # an interpolation or an escape is Hydra's syntax

    assert hydra_reads(quoted_override(f"key={path}", sweeping=False)) == path


def test_flags_are_told_from_their_values_and_from_overrides() -> None:
    flags = split_command_line(["-c", "job", "--resolve", "--package=task", "-cd", "my conf", "seed=1"]).flags

    assert flags.arguments() == ["--cfg=job", "--resolve", "--package=task", "--config-dir=my conf"]
    assert flags.only_show
    assert flags.config_dir == "my conf"


def test_a_bare_info_takes_no_override_for_its_topic() -> None:
    line = split_command_line(["--info", "seed=1"])

    assert line.flags.arguments() == ["--info=all"]
    assert line.overrides == ("seed=1",)
    assert split_command_line(["-i", "searchpath"]).flags.arguments() == ["--info=searchpath"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mutlirun"], r"--mutlirun is not a flag\. Did you mean --multirun\?"),
        (["--config-path", "x"], "is not a flag"),
        (["--cfg"], "--cfg must be followed by its value"),
        (["--cfg", "jobs"], "--cfg must be one of job, hydra, all, but is 'jobs'"),
        (["--multirun=3"], "--multirun takes no value"),
        (["-m", "--cfg", "job"], "Only one of --multirun, --cfg can be given"),
        (["--resolve"], "--resolve must be given together with --cfg"),
    ],
)
def test_a_wrong_flag_is_refused_with_a_way_out(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_command_line(arguments)
