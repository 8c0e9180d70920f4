"""Hidden states on disk: each row gets its own, whole or not at all, within a limit, and never while they are read."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ptl_prefix.backbones.model_inputs import Padding
from ptl_prefix.data.batches import PLAIN, EvalBatches, RowLayout
from ptl_prefix.data.collation import EncodedRow
from ptl_prefix.data.encoded_split import EncodedSplit, EncodingReport, write_encoded
from ptl_prefix.data.hidden_states import HiddenStates, TokenPlaces, make_room, write_hidden_states

WIDTH = 3
SHAPE = {"width": WIDTH, "dtype": torch.bfloat16}

Sizes = list[tuple[int, list[int]]]


def split(folder: Path, sizes: Sizes) -> EncodedSplit:
    """For each example the number of its prompt's ids, and of those of each target; all prompts differ."""
    rows = [
        EncodedRow(
            input_ids=[100 + example] * num_source + [200 + number] * num_target,
            num_source_ids=num_source,
            example=example,
        )
        for example, (num_source, nums) in enumerate(sizes)
        for number, num_target in enumerate(nums)
    ]
    return write_encoded(folder, [(rows, EncodingReport(num_pairs=len(rows)))])


def of_ids(encoded: EncodedSplit, layout: RowLayout) -> Iterator[tuple[Tensor, Tensor]]:
    """States that say which id they are of."""
    numbered = encoded.starting_at(TokenPlaces(encoded).numbered(1))
    for batch in EvalBatches(numbered, batch_size=4, padding=Padding(0), layout=layout):
        assert batch.layer_input is not None
        yield batch.layer_input.states, batch.input_ids[..., None].expand(-1, -1, WIDTH).float()


def written(folder: Path, encoded: EncodedSplit, layout: RowLayout = PLAIN) -> HiddenStates:
    places = TokenPlaces(encoded)
    write_hidden_states(folder, of_ids(encoded, layout), num_tokens=places.num_tokens, **SHAPE, facts={"layer": 1})
    return HiddenStates(folder, places, layer=1, **SHAPE)


some_sizes = st.lists(
    st.tuples(st.integers(1, 5), st.lists(st.integers(1, 5), min_size=1, max_size=4)), min_size=1, max_size=6
)


@settings(max_examples=25)
@given(some_sizes, st.booleans())
def test_each_row_gets_the_states_of_its_own_ids(
    tmp_path_factory: pytest.TempPathFactory, sizes: Sizes, shares_sources: bool
) -> None:
    folder = tmp_path_factory.mktemp("states")
    encoded = split(folder / "split", sizes)

    states = written(folder / "entry", encoded, RowLayout(share_sources=shares_sources))

    for index, row in enumerate(encoded.starting_at(states).rows(range(len(encoded)))):
        assert row["layer_input"].layer == 1
        assert row["layer_input"].states[:, -1].tolist() == row["input_ids"], index


def test_a_shared_prompt_is_kept_once(tmp_path: Path) -> None:
    encoded = split(tmp_path / "split", [(5, [2, 3, 1]), (1, [2, 2]), (3, [4])])

    # Of the first prompt four ids once, of the second, of one id, none.
    assert TokenPlaces(encoded).num_tokens == (4 + 3 + 4 + 2) + (3 + 3) + 7
    written(tmp_path / "entry", encoded)
    assert (tmp_path / "entry" / "states.bin").stat().st_size == 26 * WIDTH * 2


def test_other_ids_or_another_division_have_another_fingerprint(tmp_path: Path) -> None:
    def fingerprint(name: str, ids: list[list[int]], *, num_source: int = 2, examples: tuple[int, int] = (0, 0)) -> str:
        rows = [
            EncodedRow(input_ids=row, num_source_ids=num_source, example=example)
            for row, example in zip(ids, examples, strict=True)
        ]
        return TokenPlaces(write_encoded(tmp_path / name, [(rows, EncodingReport())])).fingerprint

    alike = [[7, 7, 7, 7], [7, 7, 7, 7]]
    found = [
        fingerprint("first", alike),
        fingerprint("ids", [[7, 7, 7, 7], [7, 7, 7, 8]]),
        fingerprint("lengths", [[7, 7, 7], [7, 7, 7, 7, 7]]),
        fingerprint("prompts", alike, num_source=3),
        fingerprint("examples", alike, examples=(0, 1)),
    ]

    assert len(set(found)) == len(found)
    assert fingerprint("again", alike) == found[0]


def test_an_entry_of_another_size_is_none(tmp_path: Path) -> None:
    encoded = split(tmp_path / "split", [(5, [2, 3])])
    written(tmp_path / "entry", encoded)
    places = TokenPlaces(encoded)

    assert HiddenStates.find(tmp_path / "entry", places, layer=1, **SHAPE) is not None
    assert HiddenStates.find(tmp_path / "entry", places, layer=1, width=WIDTH + 1, dtype=torch.bfloat16) is None
    os.truncate(tmp_path / "entry" / "states.bin", 10)
    assert HiddenStates.find(tmp_path / "entry", places, layer=1, **SHAPE) is None
    assert HiddenStates.find(tmp_path / "absent", places, layer=1, **SHAPE) is None


def test_a_failed_writer_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> Iterator[tuple[Tensor, Tensor]]:
        yield torch.ones(1, 1, 1, dtype=torch.long), torch.ones(1, 1, WIDTH)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_hidden_states(tmp_path / "entry", failing(), num_tokens=9, **SHAPE, facts={})

    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_nothing_that_is_found_and_its_bytes_are_freed_by_the_next(tmp_path: Path) -> None:
    ready, begun = os.pipe()

    def endless() -> Iterator[tuple[Tensor, Tensor]]:
        yield torch.ones(1, 1, 1, dtype=torch.long), torch.ones(1, 1, WIDTH)
        os.write(begun, b"1")
        time.sleep(60)

    child = os.fork()
    if not child:
        try:
            write_hidden_states(tmp_path / "entry", endless(), num_tokens=9, **SHAPE, facts={})
        finally:
            os._exit(1)
    assert os.read(ready, 1) == b"1"
    make_room(tmp_path, 1, limit=0)
    being_written = list(tmp_path.iterdir())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(ready)
    os.close(begun)

    assert len(being_written) == 1, "what a living process writes is not touched"
    assert not (tmp_path / "entry").exists()
    assert make_room(tmp_path, 1, limit=10**6) == 0
    assert list(tmp_path.iterdir()) == []


def test_the_longest_unused_entries_make_room_but_none_that_is_read(tmp_path: Path) -> None:
    encoded = split(tmp_path / "split", [(5, [2, 3])])
    places, entries = TokenPlaces(encoded), tmp_path / "entries"
    size = places.num_tokens * WIDTH * 2
    for age, name in enumerate(("newest", "read", "older", "oldest")):
        states = written(entries / name, encoded)
        os.utime(entries / name, (10**9 - age, 10**9 - age))
        if name == "read":
            kept = states
    del states
    os.utime(entries / "read", (1, 1))

    def names() -> set[str]:
        return {path.name for path in entries.iterdir()}

    assert make_room(entries, size, limit=5 * size) == 4 * size
    assert names() == {"newest", "read", "older", "oldest"}
    assert make_room(entries, size, limit=4 * size) == 3 * size
    assert names() == {"newest", "read", "older"}
    assert make_room(entries, size, limit=0) == size
    assert names() == {"read"}
    assert kept(0).states[:, 0].tolist() == encoded.rows([0])[0]["input_ids"]
    del kept
    assert make_room(entries, size, limit=0) == 0
    assert names() == set()
