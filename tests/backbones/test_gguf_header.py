"""The header of a GGUF file: whatever its bytes are, it is read or refused in one sentence, before any conversion."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_gguf import save_tiny_gguf

from ptl_prefix.backbones import gguf_file
from ptl_prefix.backbones.gguf_conversion import ARCHITECTURES
from ptl_prefix.backbones.gguf_file import GgufFile
from ptl_prefix.backbones.gguf_header import read_header
from ptl_prefix.errors import BackboneError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The user's cache, in which nothing was converted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file of a tiny LLaMA."""
    return save_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf").read_bytes()


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], list[str]]:
    """What the config check says of a file with some bytes."""
    path = tmp_path_factory.mktemp("hostile") / "hostile.gguf"

    def check(content: bytes) -> list[str]:
        gguf_file._content_hash.cache_clear()
        path.write_bytes(content)
        found = GgufFile(str(path)).problems()
        assert len(found) <= 1
        assert all(one.startswith("`backbone.path` must be a ") and "\n" not in one for one in found)
        return found

    return check


def test_the_header_says_what_the_file_holds(tmp_path: Path) -> None:
    path = save_tiny_gguf(tmp_path / "tiny.gguf", "qwen3", kind="Q8_0")

    header = read_header(path)

    assert header.architecture == "qwen3"
    assert header.value("block_count") == 3
    assert header.metadata["tokenizer.ggml.tokens"].num_items == 288
    assert header.num_bytes <= path.stat().st_size < header.num_bytes + header.alignment
    embedding = header.tensor("token_embd.weight")
    assert embedding is not None
    assert (embedding.shape, embedding.kind.name, embedding.num_bytes) == ((32, 288), "Q8_0", 288 * 34)


def test_a_file_that_is_cut_anywhere_is_refused(
    whole: bytes, tmp_path: Path, problems: Callable[[bytes], list[str]]
) -> None:
    assert problems(whole) == []
    (tmp_path / "tiny.gguf").write_bytes(whole)
    start = read_header(tmp_path / "tiny.gguf").data_start

    # The last tensor's padding may be missing.
    for length in [*range(0, start, 64), start, len(whole) // 2, len(whole) - 64]:
        (problem,) = problems(whole[:length])
        assert "truncated" in problem or length < 4


@settings(max_examples=80)
@given(data=st.data())
def test_any_bits_of_a_header_may_be_flipped(
    whole: bytes, problems: Callable[[bytes], list[str]], data: st.DataObject
) -> None:
    content = bytearray(whole)
    # Most of the first bytes are keys, types and counts, most of the others texts of the vocabulary.
    places = st.one_of(st.integers(4, 1500), st.integers(4, len(whole) - 1))
    for place in data.draw(st.lists(places, min_size=1, max_size=3)):
        content[place] ^= data.draw(st.integers(1, 255))

    problems(bytes(content))


@settings(max_examples=10)
@given(place=st.integers(24, 1500), bit=st.integers(0, 7))
def test_a_damaged_file_that_is_converted_is_a_backbone_error(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    content = bytearray(whole)
    content[place] ^= 1 << bit
    path = tmp_path_factory.mktemp("flipped") / "flipped.gguf"
    path.write_bytes(content)

    with contextlib.suppress(BackboneError):
        assert GgufFile(str(path)).folder.is_dir()


@pytest.mark.parametrize(
    ("metadata", "fact"),
    [
        ({"general__architecture": "falcon"}, "is of the architecture 'falcon'; those that are converted are: gemma2,"),
        ({"split__count": 3}, "is one of 3 parts; join them with llama.cpp's `llama-gguf-split --merge`"),
        ({"llama__expert_count": 8}, "is a mixture of experts"),
        ({"llama__block_count": 2**31}, "states the impossible value 2147483648 as `llama.block_count`"),
        ({"tokenizer__ggml__tokens": 3}, "has no tokenizer"),
        ({"general__alignment": 3}, "states an impossible `general.alignment`"),
    ],
)
def test_a_file_that_cannot_be_converted_is_refused_by_name(
    tmp_path: Path, metadata: dict[str, int | str], fact: str
) -> None:
    path = save_tiny_gguf(tmp_path / "tiny.gguf", **metadata)

    (problem,) = GgufFile(str(path)).problems()

    assert fact in problem


def test_what_is_no_gguf_file_is_refused_by_name(
    tmp_path: Path, whole: bytes, problems: Callable[[bytes], list[str]]
) -> None:
    facts = {
        POINTER: "is a Git LFS pointer, not the file itself",
        b"PK\3\4" + whole: "does not start with the bytes `GGUF`",
        whole[:4] + b"\1\0\0\0" + whole[8:]: "is of version 1, not",
        whole[:4] + b"\0\0\0\3" + whole[8:]: "is big-endian, not",
    }
    for content, fact in facts.items():
        assert fact in problems(content)[0]
    os.mkfifo(tmp_path / "pipe.gguf")
    for name in ("none.gguf", "pipe.gguf", "~nobody_of_this_name/a.gguf", "\0.gguf", "a" * 5000 + ".gguf"):
        (problem,) = GgufFile(str(tmp_path / name) if name[0] not in "~" else name).problems()
        assert "must be a GGUF file that exists, but there is none at" in problem
    assert set(ARCHITECTURES) == {"gemma2", "gemma3", "gpt2", "llama", "qwen2", "qwen3"}
