"""A checkpoint is whole or refused: torch itself reads one with a flipped bit without a word."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ptl_prefix.artifacts.checkpoint_file import read_checkpoint, write_checkpoint
from ptl_prefix.errors import RunError

STATE: dict[str, Any] = {
    "global_step": 3,
    "callbacks": {},
    "state_dict": {"a": torch.arange(500.0), "b": torch.ones(7)},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "last.ckpt", STATE)
    return tmp_path / "last.ckpt"


def test_what_is_written_is_read(path: Path) -> None:
    read = read_checkpoint(path)

    assert read["global_step"] == 3
    assert torch.equal(read["state_dict"]["a"], STATE["state_dict"]["a"])


def test_a_flipped_bit_is_refused_wherever_it_changes_the_content(path: Path) -> None:
    whole = path.read_bytes()
    refused = 0

    for position in range(0, len(whole), max(1, len(whole) // 150)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        try:
            read = read_checkpoint(path)
        except RunError:
            refused += 1
            continue
        assert all(torch.equal(read["state_dict"][name], tensor) for name, tensor in STATE["state_dict"].items())

    assert refused > 60  # the rest is padding


def test_a_flipped_bit_of_a_tensor_is_named(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[whole.index(torch.arange(500.0).numpy().tobytes()) + 801] ^= 1
    path.write_bytes(whole)
    assert not torch.equal(torch.load(path)["state_dict"]["a"], STATE["state_dict"]["a"]), "torch does not notice"

    with pytest.raises(RunError, match=r"'.*last\.ckpt' is not: the bytes of its part '.*data/0' do not have"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_what_is_no_checkpoint_is_refused_in_one_sentence(path: Path, content: bytes | None) -> None:
    if content is None:
        torch.save({"weights": torch.ones(2)}, path)
    else:
        path.write_bytes(content)

    with pytest.raises(RunError, match="A checkpoint must be whole"):
        read_checkpoint(path)
