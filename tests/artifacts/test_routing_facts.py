"""Routing facts in a bundle: their round trip, hostile files, and that nothing in them can be read."""

import dataclasses
import hashlib
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.made_up_routing import FRUIT, facts_of, made_up_facts, made_up_states, texts

from ptl_prefix.artifacts.bundle import BundleContents, read_bundle, read_routing, write_bundle
from ptl_prefix.artifacts.manifest import RoutingEntry, TensorInfo, sealed_text
from ptl_prefix.artifacts.ngram_counts import NUM_COLUMNS, NgramCounts, one_row
from ptl_prefix.artifacts.routing_facts import MAX_VALIDATION, RoutingFacts
from ptl_prefix.errors import BundleError

Arrays = dict[str, np.ndarray[Any, Any]]


def written(folder: Path, stated: dict[str, Any], facts: RoutingFacts | None) -> Path:
    write_bundle(folder, BundleContents(tensors={"keys": torch.ones(2)}, **stated, routing=facts))
    return folder


@pytest.fixture
def folder(tmp_path: Path, stated: dict[str, Any]) -> Path:
    facts = dataclasses.replace(made_up_facts(FRUIT, num_validation=5), states=made_up_states(0, num_validation=5))
    return written(tmp_path / "bundle", stated, facts)


def reason(folder: Path) -> str:
    with pytest.raises(BundleError) as refusal:
        read_routing(folder)
    message = str(refusal.value)
    assert message.startswith("A bundle must be whole and unchanged since its export, but ")
    return message


@st.composite
def ngram_counts(draw: st.DrawFn) -> NgramCounts:
    columns = st.lists(st.integers(0, NUM_COLUMNS - 1), max_size=4, unique=True).map(sorted)
    rows = draw(st.lists(columns, max_size=4))
    flat = [column for row in rows for column in row]
    counts = draw(st.lists(st.integers(1, 2**15 - 1), min_size=len(flat), max_size=len(flat)))
    starts = np.cumsum([0, *map(len, rows)])
    return NgramCounts(starts, np.array(flat, dtype=np.int64), np.array(counts, dtype=np.int64))


@settings(max_examples=30)
@given(
    validation=ngram_counts(),
    totals=st.dictionaries(st.integers(0, NUM_COLUMNS - 1), st.integers(1, 2**31 - 1), min_size=1, max_size=5),
    width=st.integers(0, 3),
)
def test_any_facts_come_back(validation: NgramCounts, totals: dict[int, int], width: int) -> None:
    dense = np.zeros(NUM_COLUMNS, dtype=np.int64)
    dense[list(totals)] = list(totals.values())
    states = made_up_states(3, width=width, num_validation=4) if width else None
    facts = RoutingFacts(num_inputs=7, trained=one_row(dense), validation=validation, states=states)

    assert_same(RoutingFacts.from_arrays(facts.to_arrays(), 7), facts)


def assert_same(one: RoutingFacts, other: RoutingFacts) -> None:
    assert one.num_inputs == other.num_inputs
    assert np.array_equal(one.totals, other.totals)
    for part in ("starts", "columns", "counts"):
        assert np.array_equal(getattr(one.validation, part), getattr(other.validation, part))
    assert (one.states is None) == (other.states is None)
    if one.states is not None and other.states is not None:
        assert np.array_equal(one.states.mean, other.states.mean)
        assert np.array_equal(one.states.deviation, other.states.deviation)
        assert np.allclose(one.states.validation, other.states.validation, atol=1e-2)  # float16 in the file


def test_facts_come_back_from_disk(folder: Path) -> None:
    facts = dataclasses.replace(made_up_facts(FRUIT, num_validation=5), states=made_up_states(0, num_validation=5))

    assert_same(read_facts(folder), facts)
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json",
        "routing.safetensors",
        "tensors.safetensors",
    ]


def test_a_bundle_without_facts_is_a_bundle_and_replaces_one_with_them(folder: Path, stated: dict[str, Any]) -> None:
    written(folder, stated, None)

    assert read_routing(folder) is None
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "tensors.safetensors"]


def test_no_text_of_the_task_is_in_any_file_of_the_bundle(tmp_path: Path, stated: dict[str, Any]) -> None:
    inputs = ["quizzical marmalade", "zanzibar's xylophones jumped vexingly", "marmalade zeppelin 90210"]
    states = made_up_states(0, width=4, num_validation=3)

    folder = written(tmp_path / "bundle", stated, facts_of(inputs, inputs, states))

    content = b"".join(path.read_bytes() for path in folder.iterdir()).lower()
    words = {word for text in inputs for word in text.lower().replace("'", " ").split() if len(word) > 3}
    for word in words:
        for encoding in ("utf-8", "utf-16-le", "utf-32-le"):
            assert word.encode(encoding) not in content


Change = Callable[[Arrays], Any]


def forge(folder: Path, change: Change, *, num_inputs: int = 3) -> None:
    """A file from someone who knows the format: every hash and shape agrees with what is there."""
    manifest = read_bundle(folder).manifest
    arrays = {name: array.copy() for name, array in read_facts(folder).to_arrays().items()}
    changed = change(arrays)
    arrays = changed if isinstance(changed, dict) else arrays
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    content = safetensors.torch.save(tensors)
    infos = {
        name: TensorInfo(shape=tuple(one.shape), dtype=str(one.dtype).removeprefix("torch."))  # type: ignore[arg-type]
        for name, one in tensors.items()
    }
    entry = RoutingEntry(
        scheme="words_1_2", num_inputs=num_inputs, tensors=infos, sha256=hashlib.sha256(content).hexdigest()
    )
    (folder / "manifest.json").write_text(sealed_text(dataclasses.replace(manifest, routing=entry)), encoding="utf-8")
    (folder / "routing.safetensors").write_bytes(content)


def read_facts(folder: Path) -> RoutingFacts:
    facts = read_routing(folder)
    assert facts is not None
    return facts


def put(name: str, index: Any, value: Any) -> Change:
    return lambda arrays: arrays[name].__setitem__(index, value)


def replaced(name: str, array: Any) -> Change:
    return lambda arrays: {**arrays, name: array}


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (put("ngrams.counts", 0, -1), "has a count below 1 in 'ngrams'"),
        (put("validation.counts", 3, 0), "has a count below 1 in 'validation'"),
        (put("validation.columns", 0, -1), "has a column in 'validation' outside 0 to 32767"),
        (put("validation.columns", slice(0, 2), 5), "has columns in 'validation' that repeat or decrease"),
        (put("ngrams.columns", slice(0, 2), 5), "has columns in 'ngrams' that repeat or decrease"),
        (put("validation.starts", 1, 10**6), "has starts in 'validation' that do not divide its"),
        (put("validation.starts", 1, -2), "has starts in 'validation' that do not divide its"),
        (put("validation.starts", 0, 1), "has starts in 'validation' that do not divide its"),
        (put("validation.starts", -1, 2), "has starts in 'validation' that do not divide its"),
        (replaced("validation.starts", np.zeros(0, np.int32)), "has starts in 'validation' that do not divide its"),
        (replaced("validation.starts", np.zeros(MAX_VALIDATION + 2, np.int32)), "at most 201 elements"),
        (replaced("validation.counts", np.ones(3, np.int16)), "columns and 3 counts in 'validation'"),
        (replaced("ngrams.columns", np.zeros(0, np.int16)), "has 0 columns and"),
        (replaced("ngrams.counts", np.ones(3, np.int64)), "not int32 of 1 axes"),
        (replaced("ngrams.counts", np.ones((3, 1), np.int32)), "not int32 of 1 axes"),
        (replaced("text", np.ones(3, np.int16)), "has array 'text'"),
        (lambda arrays: arrays.pop("states.mean"), "has no array 'states.mean'"),
        (lambda arrays: arrays.pop("ngrams.counts"), "has no array 'ngrams.counts'"),
        (put("states.deviation", 0, -1), "not finite, or a negative deviation"),
        (replaced("states.mean", np.zeros(3, np.float32)), "has hidden states of the widths 3, 6 and (5, 6)"),
        (replaced("states.validation", np.zeros((201, 6), np.float16)), "has hidden states of the widths"),
        (put("states.validation", (0, 0), np.nan), "holds non-finite numbers: 'states.validation'"),
        (put("states.mean", 1, np.inf), "holds non-finite numbers: 'states.mean'"),
    ],
)
def test_a_hostile_file_is_refused(folder: Path, change: Change, fact: str) -> None:
    forge(folder, change)

    assert fact in reason(folder)
    read_bundle(folder)  # the rest is whole


def test_the_forger_of_these_tests_can_write_a_good_file(folder: Path) -> None:
    before = read_facts(folder)

    forge(folder, lambda arrays: None)

    assert np.array_equal(read_facts(folder).totals, before.totals)
    with pytest.raises(ValueError, match=r"`routing\.num_inputs`"):
        forge(folder, lambda arrays: None, num_inputs=0)


def test_claimed_sizes_are_refused_before_the_file_is_read(folder: Path) -> None:
    manifest = read_bundle(folder).manifest
    assert manifest.routing is not None
    infos = {**manifest.routing.tensors, "ngrams.columns": TensorInfo(shape=(2**40, 2**20), dtype="int16")}
    entry = dataclasses.replace(manifest.routing, tensors=infos)
    (folder / "manifest.json").write_text(sealed_text(dataclasses.replace(manifest, routing=entry)), encoding="utf-8")
    (folder / "routing.safetensors").unlink()

    assert "has int16 of shape (1099511627776, 1048576) as 'ngrams.columns'" in reason(folder)


def test_a_file_that_is_cut_changed_or_gone_is_refused(folder: Path) -> None:
    path = folder / "routing.safetensors"
    whole = path.read_bytes()

    for content, fact in [
        (whole[:-1], "it is truncated"),
        (whole[:5], "it is truncated"),
        (whole + b"\0", "it is truncated, or not of this bundle"),
        (struct.pack("<Q", 2**60) + whole[8:], "claims a header of 1152921504606846976 bytes"),
        (whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:], "has other content than its manifest's `routing.sha256`"),
    ]:
        path.write_bytes(content)
        assert fact in reason(folder)
    path.unlink()
    assert f"{path} is missing" in reason(folder)
    path.symlink_to("/etc/hostname")
    assert "is a link that leaves its folder" in reason(folder)


def test_counts_that_are_too_large_for_the_file_are_lowered(tmp_path: Path, stated: dict[str, Any]) -> None:
    many = NgramCounts(np.array([0, 1]), np.array([4]), np.array([10**6]))
    facts = RoutingFacts(num_inputs=1, trained=one_row(np.full(NUM_COLUMNS, 2**40)), validation=many)

    read = read_facts(written(tmp_path / "bundle", stated, facts))

    assert read.validation.counts.tolist() == [2**15 - 1]
    assert set(read.totals.tolist()) == {2**31 - 1}


def test_facts_of_real_texts_are_smaller_than_their_texts(tmp_path: Path, stated: dict[str, Any]) -> None:
    training = texts(FRUIT, 2000, words=40)

    folder = written(tmp_path / "bundle", stated, facts_of(training, training[:MAX_VALIDATION]))

    assert (folder / "routing.safetensors").stat().st_size < sum(map(len, training)) / 4
