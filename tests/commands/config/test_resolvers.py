import re

import pytest
from omegaconf import OmegaConf

from ptl_prefix.artifacts.run_folder import is_name
from ptl_prefix.commands.config.resolvers import forget_run_ids, hide_variables, register_resolvers


def run_id() -> str:
    register_resolvers()
    return str(OmegaConf.create({"run_id": "${run_id:}"}).run_id)


def test_a_run_keeps_its_id_however_often_its_config_is_composed() -> None:
    assert run_id() == run_id()


def test_another_run_has_another_id() -> None:
    first = run_id()

    forget_run_ids()

    assert run_id() != first


def test_an_id_is_a_time_and_a_random_part_and_may_name_a_folder() -> None:
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{6}", run_id())
    assert is_name(run_id())


def test_a_label_is_the_legal_end_of_a_path() -> None:
    register_resolvers()
    config = OmegaConf.create({"path": "/my models/gpt 2/", "name": "${label:${.path}}"})

    assert is_name(config.name)
    assert config.name == "gpt-2"


@pytest.mark.parametrize("secret", ["s3cret-value", "with 'quote' and \n line"])
def test_a_value_from_the_environment_is_not_shown(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", secret)
    register_resolvers()

    assert OmegaConf.create({"key": "${oc.env:A_SECRET}"}).key == secret
    assert OmegaConf.create({"key": "${oc.env:NOT_THERE,default}"}).key == "default"
    assert hide_variables(f"`key` is {secret!r}.").replace('"', "'") == "`key` is '${oc.env:A_SECRET}'."
    assert hide_variables(f"no file at {secret}") == "no file at ${oc.env:A_SECRET}"
