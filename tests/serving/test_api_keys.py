import hashlib
from pathlib import Path

import pytest

from ptl_prefix.errors import ConfigError
from ptl_prefix.serving.api_keys import Client, generated_key, read_keys

KEY = "a-key-of-some-length#1"


def keys_of(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "keys.txt"
    path.write_text(text)
    return path


def test_a_file_holds_keys_and_hashes_of_keys(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"another-key-of-some-length").hexdigest()
    path = keys_of(tmp_path, f"# the team\nalice {KEY}  # rotates in May\n\nops sha256:{digest} admin\n")

    keys = read_keys(str(path), {"PTL_PREFIX_API_KEY": "one-of-the-environment"})

    assert len(keys) == 3
    assert keys.find(f"Bearer {KEY}") == Client("alice", is_admin=False)
    assert keys.find("bearer another-key-of-some-length") == Client("ops", is_admin=True)
    assert keys.find("Bearer one-of-the-environment") == Client("environment", is_admin=False)
    for wrong in (
        None,
        "",
        "Bearer",
        "Bearer ",
        KEY,
        f"Basic {KEY}",
        f"Bearer {KEY}x",
        f"Bearer sha256:{digest}",
        "Bearer \ud800",
    ):
        assert keys.find(wrong) is None
    assert KEY not in repr(vars(keys))


def test_every_wrong_line_is_named_and_no_key_is_shown(tmp_path: Path) -> None:
    path = keys_of(tmp_path, f"alice short\nbob/.. {KEY}\ncarol\ndan sha256:zz\neve {KEY} root\nfay {KEY}\ngil {KEY}\n")

    with pytest.raises(ConfigError) as refused:
        read_keys(str(path), {})

    assert len(refused.value.mistakes) == 6
    for part in (
        "line 1",
        "at least 16",
        "line 2",
        "name",
        "line 3",
        "line 4",
        "line 5",
        "line 7",
        "also that of 'fay'",
    ):
        assert part in str(refused.value)
    assert KEY not in str(refused.value)


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_a_file_without_keys_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="must hold a key"):
        read_keys(str(keys_of(tmp_path, text)), {})


def test_a_new_key_is_for_everything_and_never_the_same() -> None:
    key, keys = generated_key()

    assert keys.find(f"Bearer {key}") == Client("local", is_admin=True)
    assert keys.find(f"Bearer {generated_key()[0]}") is None
    assert len(key) > 40
