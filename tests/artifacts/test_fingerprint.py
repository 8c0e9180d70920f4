"""Equal if and only if the content is equal."""

import json
import os
import platform
import subprocess
import tracemalloc
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ptl_prefix.artifacts import fingerprint
from ptl_prefix.artifacts.fingerprint import environment, fingerprint_files, fingerprint_tensors, fingerprint_text

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool]


def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = {str(dtype): torch.randn(3, 4, generator=generator).to(dtype) for dtype in DTYPES}
    return {**drawn, "scalar": torch.tensor(1.5), "empty": torch.zeros(0, 4)}


def test_the_fingerprint_is_the_same_on_every_machine() -> None:
    named = {"a": torch.arange(6, dtype=torch.float32).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}

    assert fingerprint_tensors(named.items()) == "23727582ca0642b105a5b450021fb2b4dae7d1d9c45c925590e5597a395c4a79"


def test_the_order_of_the_names_does_not_matter() -> None:
    assert fingerprint_tensors(state().items()) == fingerprint_tensors(reversed(state().items()))


@pytest.mark.parametrize("name", state())
def test_every_single_bit_matters(name: str) -> None:
    whole = fingerprint_tensors(state().items())
    changed = state()
    if changed[name].numel() == 0:
        changed[name] = torch.zeros(4, 0)
    else:
        changed[name].reshape(-1).view(torch.uint8)[-1] ^= 1

    assert fingerprint_tensors(changed.items()) != whole


def test_names_shapes_and_dtypes_matter() -> None:
    table = torch.zeros(2, 6)
    variants = [
        {"a": table},
        {"b": table},
        {"a": table.reshape(3, 4)},
        {"a": table.reshape(12)},
        {"a": table.to(torch.int32)},
        {"a": table.to(torch.float16)},
        {"a": table, "b": torch.zeros(0)},
        {"a": table[:1], "b": table[1:]},
        {},
    ]

    assert len({fingerprint_tensors(variant.items()) for variant in variants}) == len(variants)


def test_how_a_tensor_lies_in_memory_and_whether_it_trains_do_not_matter() -> None:
    table = torch.randn(4, 6)
    plain = fingerprint_tensors([("a", table)])

    assert fingerprint_tensors([("a", table.T.contiguous().T)]) == plain
    assert fingerprint_tensors([("a", torch.cat([table, table], dim=1)[:, :6])]) == plain
    assert fingerprint_tensors([("a", torch.nn.Parameter(table))]) == plain


def test_a_name_that_comes_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="'a' occurs twice"):
        fingerprint_tensors([("a", torch.zeros(1)), ("a", torch.zeros(1))])


def test_tensors_are_hashed_where_they_lie() -> None:
    table = torch.zeros(8 * 2**20, dtype=torch.bfloat16)

    tracemalloc.start()
    fingerprint_tensors([("a", table)])
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    raw = np.frombuffer(fingerprint._raw_bytes(table), dtype=np.uint8)
    assert (raw.ctypes.data, raw.nbytes) == (table.data_ptr(), 16 * 2**20)
    assert peak_bytes < 2**20


def test_shards_that_come_one_by_one_are_not_kept() -> None:
    earlier: list[weakref.ref[Tensor]] = []

    def shards() -> Iterator[tuple[str, Tensor]]:
        for index in range(5):
            tensor = torch.full((4,), float(index))
            assert sum(shard() is not None for shard in earlier) <= 1
            earlier.append(weakref.ref(tensor))
            yield str(index), tensor

    fingerprint_tensors(shards())

    assert len(earlier) == 5


@given(one=st.lists(st.text()), other=st.lists(st.text()))
def test_texts_are_told_apart_also_by_where_they_end(one: list[str], other: list[str]) -> None:
    assert (fingerprint_text(*one) == fingerprint_text(*other)) == (one == other)
    assert fingerprint_text("ab", "c") != fingerprint_text("a", "bc") != fingerprint_text("abc")


def files(folder: Path, **contents: str) -> list[Path]:
    paths = [folder / name.replace("__", "/") for name in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return paths


def test_files_are_equal_wherever_they_lie_and_in_whatever_order(tmp_path: Path) -> None:
    here = files(tmp_path / "here", train__a="1", test__a="2")
    there = files(tmp_path / "there" / "deeper", train__a="1", test__a="2")

    assert fingerprint_files(here) == fingerprint_files(reversed(there))
    assert fingerprint_files(here[:1]) == fingerprint_files(str(path) for path in there[:1])


def test_files_differ_by_content_and_by_name(tmp_path: Path) -> None:
    variants = [
        files(tmp_path / "1", train__a="1", test__a="2"),
        files(tmp_path / "2", train__a="2", test__a="1"),
        files(tmp_path / "3", train__b="1", test__a="2"),
        files(tmp_path / "4", train__a="12", test__a=""),
        files(tmp_path / "5", train__a="1"),
        files(tmp_path / "6", train__a="1", team__a="2"),
        [],
    ]

    assert len({fingerprint_files(variant) for variant in variants}) == len(variants)


def test_the_environment_says_what_and_not_who_or_where() -> None:
    said = environment()

    assert list(said) == ["python", "platform", "cpu", "cores", "devices", "package_version", "libraries", "git"]
    assert said["python"] == platform.python_version()
    assert said["libraries"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert said["cores"] >= 1 and said["cpu"]
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert os.getcwd() not in json.dumps(said)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git checkout that tracks a file of the same name as the module that asks."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    package = tmp_path / "package"
    package.mkdir()
    (package / "fingerprint.py").write_text("one")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "one")
    return package


def git(folder: Path, *arguments: str) -> str:
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *author, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_checkout_is_named_by_its_commit_and_whether_it_was_changed(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    assert fingerprint._git(checkout) == {"commit": commit, "dirty": False}

    (checkout / "fingerprint.py").write_text("two")

    assert fingerprint._git(checkout) == {"commit": commit, "dirty": True}


def test_a_package_that_is_installed_inside_somebody_elses_checkout_has_no_commit(checkout: Path) -> None:
    installed = checkout / ".venv"
    installed.mkdir()
    (installed / "fingerprint.py").write_text("one")

    assert fingerprint._git(installed) is None


def test_what_a_checkout_has_beside_its_commit_is_a_patch(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file,) = checkout.glob("*.py")
    monkeypatch.setattr(fingerprint, "__file__", str(file))
    assert fingerprint.uncommitted_changes() == ""

    file.write_text("another line")

    assert "+another line" in (fingerprint.uncommitted_changes() or "")


def test_the_variables_of_a_git_hook_do_not_mislead(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", "/nowhere")

    assert fingerprint._git(checkout) == {"commit": commit, "dirty": False}


def test_a_machine_without_git_has_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")

    assert fingerprint._git(checkout) is None
