"""The bundle's round trip, and everything that is not a whole bundle."""

import contextlib
import dataclasses
import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ptl_prefix.artifacts import bundle as bundles
from ptl_prefix.artifacts.bundle import Bundle, BundleContents, Manifest, TensorInfo, read_bundle, write_bundle
from ptl_prefix.artifacts.manifest import sealed_text
from ptl_prefix.errors import BundleError


def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(2, 2, 3, 4, generator=generator)
    return {"decoder_self.keys": keys, "decoder_self.values": keys.bfloat16(), "layers": torch.tensor([0, 1])}


def assert_same(one: Bundle, other: Bundle) -> None:
    assert one.manifest == other.manifest
    assert list(one.tensors) == list(other.tensors)
    for name, tensor in one.tensors.items():
        assert tensor.dtype == other.tensors[name].dtype
        assert torch.equal(tensor, other.tensors[name])


@pytest.fixture
def folder(tmp_path: Path, stated: dict[str, Any]) -> Path:
    write_bundle(tmp_path / "bundle", BundleContents(tensors=tensors(), **stated))
    return tmp_path / "bundle"


def reason(folder: Path) -> str:
    with pytest.raises(BundleError) as refusal:
        read_bundle(folder)
    message = str(refusal.value)
    assert message.startswith("A bundle must be whole and unchanged since its export, but ")
    assert message.endswith("; export it again from its run.")
    return message


def test_a_bundle_is_read_as_it_was_written(tmp_path: Path, stated: dict[str, Any]) -> None:
    written = write_bundle(tmp_path / "out" / "bundle", BundleContents(tensors=tensors(), **stated))

    read = read_bundle(tmp_path / "out" / "bundle")

    assert_same(written, read)
    assert_same(read, Bundle(read.manifest, dict(sorted(tensors().items()))))
    assert {key: getattr(read.manifest, key) for key in stated} == stated
    assert sorted(os.listdir(tmp_path / "out" / "bundle")) == ["manifest.json", "tensors.safetensors"]


shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
dtypes = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool])
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@settings(max_examples=40)
@given(described=st.dictionaries(names, st.tuples(shapes, dtypes), max_size=4), seed=st.integers(0, 99))
def test_any_tensors_come_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory,
    stated: dict[str, Any],
    described: dict[str, tuple[tuple[int, ...], torch.dtype]],
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    drawn = {
        name: (torch.randn(shape, generator=generator) * 9).to(dtype) for name, (shape, dtype) in described.items()
    }
    folder = tmp_path_factory.getbasetemp() / "any-bundle"

    write_bundle(folder, BundleContents(tensors=drawn, **stated))

    read = read_bundle(folder)
    assert_same(read, Bundle(read.manifest, dict(sorted(drawn.items()))))


def test_tensors_that_share_memory_or_train_or_lie_transposed_are_stored_by_value(
    tmp_path: Path, stated: dict[str, Any]
) -> None:
    table = torch.nn.Parameter(torch.randn(4, 6))
    views = {"all": table, "row": table[0], "column": table[:, 0], "transposed": table.T}

    bundle = write_bundle(tmp_path / "bundle", BundleContents(tensors=views, **stated))

    for name, view in views.items():
        assert torch.equal(bundle.tensors[name], view)
        assert not bundle.tensors[name].requires_grad


def test_the_reader_of_a_bundle_may_change_its_tensors(folder: Path) -> None:
    read_bundle(folder).tensors["decoder_self.keys"].zero_()

    assert torch.equal(read_bundle(folder).tensors["decoder_self.keys"], tensors()["decoder_self.keys"])


def test_a_bundle_takes_the_place_of_an_older_one(folder: Path, stated: dict[str, Any]) -> None:
    newer = write_bundle(folder, BundleContents(tensors={"keys": torch.ones(2)}, **{**stated, "method": "lora"}))

    assert_same(read_bundle(folder), newer)
    assert newer.manifest.method == "lora"


def test_a_bundle_never_takes_the_place_of_anything_else(tmp_path: Path, stated: dict[str, Any]) -> None:
    (tmp_path / "thesis.tex").write_text("mine")

    with pytest.raises(BundleError, match=r"also holds 'thesis\.tex'; choose another folder"):
        write_bundle(tmp_path, BundleContents(tensors=tensors(), **stated))

    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_tensor_that_is_not_finite_is_never_written(folder: Path, stated: dict[str, Any], bad: float) -> None:
    before = read_bundle(folder)
    broken = tensors()
    broken["decoder_self.values"][1, 0, 2, 3] = bad

    with pytest.raises(BundleError, match=r"'decoder_self\.values' has NaN or infinity; export another checkpoint"):
        write_bundle(folder, BundleContents(tensors=broken, **stated))

    assert_same(read_bundle(folder), before)


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"metrics": {"val/loss": float("nan")}}, "`metrics.val/loss` is nan"),
        ({"settings": {"path": Path("x")}}, "`settings.path` is a PosixPath"),
        ({"position_law": None}, "has None as `position_law`"),
        ({"tensors": {"keys": torch.zeros(2, dtype=torch.complex64)}}, "has 'complex64' as `tensors.keys.dtype`"),
    ],
)
def test_a_manifest_that_could_not_be_read_back_is_never_written(
    folder: Path, stated: dict[str, Any], changes: dict[str, Any], fact: str
) -> None:
    before = read_bundle(folder)

    with pytest.raises(ValueError) as refusal:
        write_bundle(folder, BundleContents(**{"tensors": tensors(), **stated, **changes}))

    assert fact in str(refusal.value)
    assert_same(read_bundle(folder), before)


def test_a_bundle_that_is_interrupted_leaves_the_old_one(
    folder: Path, stated: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_bundle(folder)

    def interrupted(path: Path) -> Bundle:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bundles, "read_bundle", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_bundle(folder, BundleContents(tensors={"keys": torch.ones(2)}, **stated))

    assert_same(read_bundle(folder), before)
    assert os.listdir(folder.parent) == ["bundle"]


def poke(path: Path, index: int, byte: int) -> None:
    with path.open("r+b") as file:  # writing the whole file anew makes some file systems wait for the disk
        file.seek(index)
        file.write(bytes([byte]))


@pytest.mark.parametrize("file", ["tensors.safetensors", "manifest.json"])
@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80])
def test_a_bundle_with_any_byte_changed_is_refused_or_equal(folder: Path, file: str, mask: int) -> None:
    whole, before = (folder / file).read_bytes(), read_bundle(folder)
    num_equal = 0

    for index, byte in enumerate(whole):
        poke(folder / file, index, byte ^ mask)
        with contextlib.suppress(BundleError):
            assert_same(read_bundle(folder), before)
            num_equal += 1
        poke(folder / file, index, byte)

    # White space between the words of the manifest may turn into other white space.
    assert num_equal <= (whole.count(b" ") + whole.count(b"\n") if file == "manifest.json" else 0)


@pytest.mark.parametrize("file", ["tensors.safetensors", "manifest.json"])
def test_a_bundle_that_is_cut_anywhere_or_too_long_is_refused(folder: Path, file: str) -> None:
    whole = (folder / file).read_bytes()

    # Without its last byte, a line end, the manifest still is whole.
    for length in {*range(0, len(whole) - 1, 64), *range(12), len(whole) - 2}:
        (folder / file).write_bytes(whole[:length])
        assert str(folder / file) in reason(folder)
    (folder / file).write_bytes(whole + b"\0")
    assert str(folder / file) in reason(folder)


@pytest.mark.parametrize("file", ["tensors.safetensors", "manifest.json"])
def test_a_bundle_without_one_of_its_files_is_refused(folder: Path, file: str) -> None:
    (folder / file).unlink()
    assert f"{folder / file} is missing" in reason(folder)

    (folder / file).mkdir()
    assert f"{folder / file} is not a plain file" in reason(folder)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"or a run folder, but '.*nowhere' does not exist; correct the path"):
        read_bundle(tmp_path / "nowhere")


@pytest.mark.parametrize("file", ["tensors.safetensors", "manifest.json"])
def test_a_link_may_stay_in_its_folder_and_not_leave_it(folder: Path, file: str) -> None:
    (folder / file).rename(folder / "real")
    (folder / file).symlink_to("real")
    read_bundle(folder)

    (folder / "real").rename(folder.parent / "elsewhere")
    (folder / file).unlink()
    (folder / file).symlink_to("../elsewhere")
    assert f"{folder / file} is a link that leaves its folder" in reason(folder)


def test_a_pipe_is_refused_instead_of_waited_for(folder: Path) -> None:
    (folder / "tensors.safetensors").unlink()
    os.mkfifo(folder / "tensors.safetensors")

    assert "is not a plain file" in reason(folder)


def test_a_link_to_a_whole_bundle_is_a_bundle(folder: Path) -> None:
    (folder.parent / "link").symlink_to(folder)

    assert_same(read_bundle(folder.parent / "link"), read_bundle(folder))


def test_a_header_that_asks_for_too_much_is_refused_before_memory_is(folder: Path) -> None:
    path = folder / "tensors.safetensors"
    rest = path.read_bytes()[8:]

    path.write_bytes(struct.pack("<Q", 2**63) + rest)
    assert "claims a header of 9223372036854775808 bytes, more than 100000000" in reason(folder)

    path.write_bytes(struct.pack("<Q", 10**8) + rest)
    assert "it is truncated" in reason(folder)


def test_a_file_of_another_size_is_refused_before_it_is_read(folder: Path) -> None:
    path = folder / "tensors.safetensors"
    with path.open("r+b") as file:
        file.truncate(2**40)  # takes no room on disk

    assert "has 1099511627776 bytes, not 8 and a header of" in reason(folder)


def forge(folder: Path, content: bytes, **changes: Any) -> None:
    """A bundle from someone who knows the format: every hash agrees with what is there."""
    manifest = read_bundle(folder).manifest
    forged = {"tensors_sha256": hashlib.sha256(content).hexdigest(), **changes}
    (folder / "manifest.json").write_text(sealed_text(dataclasses.replace(manifest, **forged)), encoding="utf-8")
    (folder / "tensors.safetensors").write_bytes(content)


def infos(**shapes: tuple[int, ...]) -> dict[str, TensorInfo]:
    return {name: TensorInfo(shape=shape, dtype="float32") for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("stored", "claimed", "fact"),
    [
        ({"a": torch.zeros(2, 3)}, infos(a=(3, 2)), r"has \(\(2, 3\), 'torch.float32'\) as 'a', and its manifest says"),
        ({"a": torch.zeros(6)}, infos(b=(6,)), "has .* as 'a', and its manifest says None"),
        ({"a": torch.zeros(6), "b": torch.zeros(0)}, infos(a=(6,)), "as 'b', and its manifest says None"),
        ({"a": torch.zeros(6)}, infos(a=(6,), b=(0,)), "has None as 'b'"),
        ({"a": torch.zeros(6, dtype=torch.int32)}, infos(a=(6,)), "has .*torch.int32.* as 'a'"),
        ({"a": torch.tensor([0.0, float("nan")])}, infos(a=(2,)), "holds non-finite numbers: 'a'"),
        ({"a": torch.tensor([float("inf"), 0.0])}, infos(a=(2,)), "holds non-finite numbers"),
    ],
)
def test_a_forged_bundle_is_refused_by_what_it_holds(
    folder: Path, stored: dict[str, Tensor], claimed: dict[str, TensorInfo], fact: str
) -> None:
    forge(folder, safetensors.torch.save(stored), tensors=claimed)

    with pytest.raises(BundleError, match=fact):
        read_bundle(folder)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"\xff\xff",
        b"[]",
        b"null",
        b'{"a":1}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[-1,7]}}',
        b'{"a":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F4","shape":[16],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"object","shape":[2],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F8_E8M0","shape":[8],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"C64","shape":[1],"data_offsets":[0,8]}}',
        b'{"__metadata__":{"a":1},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
    ],
)
def test_a_forged_header_is_refused(folder: Path, header: bytes) -> None:
    forge(folder, struct.pack("<Q", len(header)) + header + bytes(8), tensors=infos(a=(2,)))

    reason(folder)


@pytest.mark.parametrize(
    ("tensors_claimed", "fact"),
    [
        ({"a": {"shape": [-1], "dtype": "float32"}}, "has -1 as `tensors.a.shape.0`"),
        ({"a": {"shape": [2**63], "dtype": "float32"}}, "as `tensors.a.shape.0`"),
        ({"a": {"shape": [1] * 9, "dtype": "float32"}}, "as `tensors.a.shape`"),
        ({"a": {"shape": [1], "dtype": "storage"}}, "has 'storage' as `tensors.a.dtype`"),
        ({"a": {"shape": [1]}}, "has no `tensors.a.dtype`"),
        ({"a": {"shape": [1], "dtype": "float32", "pickle": "x"}}, "has the unknown key `tensors.a.pickle`"),
    ],
)
def test_a_manifest_with_an_impossible_tensor_is_refused(folder: Path, tensors_claimed: Any, fact: str) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tensors": tensors_claimed}))

    assert fact in reason(folder)


def test_a_tensor_may_not_be_called_what_the_format_keeps_for_itself(tmp_path: Path, stated: dict[str, Any]) -> None:
    with pytest.raises(BundleError):
        write_bundle(tmp_path / "bundle", BundleContents(tensors={"__metadata__": torch.zeros(2)}, **stated))

    assert os.listdir(tmp_path) == []


def test_the_manifest_states_all_that_serving_needs() -> None:
    assert " ".join(field.name for field in dataclasses.fields(Manifest)) == (
        "schema_version method settings task task_version prompt stop_ids decoding label_set metrics geometry "
        "position_law dtype backbone tensors tensors_sha256 created package_version routing "
        "document_sha256 document_path"
    )
