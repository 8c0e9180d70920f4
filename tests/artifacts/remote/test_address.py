"""What is an address, where a run is, and what is said of an `outputs_url` that cannot work."""

from pathlib import Path

import pytest
from support.object_store import BUCKET, FaultyStore

from ptl_prefix.artifacts.remote import store_errors
from ptl_prefix.artifacts.remote.address import RemoteAddress, is_remote_address, run_address
from ptl_prefix.artifacts.remote.object_store import _file_system
from ptl_prefix.artifacts.remote.outputs_url import outputs_url_problem
from ptl_prefix.errors import ObjectStoreError

NAMES = {"task": {"name": "e2e"}, "backbone": {"name": "gpt2"}, "method": {"name": "prefix"}}


@pytest.mark.parametrize("text", ["s3://bucket/a/b", "gs://bucket/a/b", "file:///a/b"])
def test_an_address_survives_a_path(text: str) -> None:
    assert str(RemoteAddress.parse(text)) == text
    assert str(RemoteAddress.parse(str(Path(text)))) == text
    assert is_remote_address(Path(text))


@pytest.mark.parametrize(
    "text", ["ftp://host/a", "s3://", "s3:///..", "s3://bucket/../a", "s3://bucket/a?b", "/a/b", "s3:"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ObjectStoreError, match="An address"):
        RemoteAddress.parse(text)


@pytest.mark.parametrize("path", ["outputs/a", "/s3:/a", "hub:me/name", "s3", "C:/a", ""])
def test_a_path_is_no_address(path: str) -> None:
    assert not is_remote_address(path)


@pytest.mark.parametrize(
    ("identity", "place"),
    [
        ({"run_id": "one", "study": None, "trial": None}, "e2e/gpt2/prefix/one"),
        ({"run_id": "lr-study-0a1b2c-7", "study": "lr-study", "trial": 7}, "sweeps/lr-study-0a1b2c/7"),
        ({"run_id": "s-0a1b2c-confirm-7", "study": "s", "trial": 7}, "sweeps/s-0a1b2c/confirm/7"),
    ],
)
def test_the_config_of_a_run_says_where_it_is(identity: dict[str, object], place: str) -> None:
    config = {**NAMES, **identity, "outputs_url": "s3://bucket/top/"}

    assert str(run_address(config)) == f"s3://bucket/top/{place}"
    assert run_address({**config, "outputs_url": None}) is None


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://host/a", "must begin with s3://"),
        ("gs://bucket/a", r"needs gcsfs.*ptl-prefix\[gcs\]"),
        ("s3://no-such-bucket/a", "bucket or folder does not exist"),
    ],
)
def test_an_outputs_url_that_cannot_work_is_named(store: FaultyStore, url: str, words: str) -> None:
    problem = outputs_url_problem(url)

    assert problem is not None
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(problem)


def test_an_outputs_url_that_works_has_no_problem(store: FaultyStore, tmp_path: Path) -> None:
    assert outputs_url_problem(f"s3://{BUCKET}/a") is None
    assert outputs_url_problem(f"file://{tmp_path}/a") is None
    assert outputs_url_problem(None) is None
    assert store.keys("a/") == ["a/.ptl_prefix"]


def test_credentials_that_are_missing_or_refused_are_named(
    store: FaultyStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    _file_system.cache_clear()
    try:
        problem = outputs_url_problem(f"s3://{BUCKET}/a")
    finally:
        _file_system.cache_clear()

    assert problem is not None
    assert "no credentials can be read" in problem
    assert "set AWS_ACCESS_KEY_ID" in problem


def test_a_refusal_does_not_pass_and_a_lost_connection_may() -> None:
    assert not store_errors.may_pass(PermissionError("Access Denied"))
    assert store_errors.may_pass(ConnectionResetError("cut"))
    assert "refuses your credentials" in str(store_errors.as_store_error("It must be so", PermissionError("Denied")))
