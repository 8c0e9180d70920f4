"""A checkpoint is believed only if every byte of its content is the one that was written."""

from pathlib import Path

import pytest
import torch

from ptl_prefix.artifacts.checkpoint_file import read_checkpoint
from ptl_prefix.errors import RunError


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    state = {"state_dict": {"keys": torch.arange(64.0)}, "global_step": 3, "callbacks": {}}
    torch.save(state, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def test_a_whole_checkpoint_is_read(checkpoint: Path) -> None:
    content = read_checkpoint(checkpoint)

    assert content["global_step"] == 3
    assert torch.equal(content["state_dict"]["keys"], torch.arange(64.0))


def test_no_flipped_bit_changes_what_is_read(checkpoint: Path) -> None:
    whole, data = checkpoint.read_bytes(), torch.arange(64.0)
    refusals = []
    for position in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        checkpoint.write_bytes(damaged)
        try:
            content = read_checkpoint(checkpoint)
        except RunError as error:
            refusals.append(str(error))
        else:  # padding between the parts
            assert content["global_step"] == 3
            assert torch.equal(content["state_dict"]["keys"], data)
    assert len(refusals) > 100
    assert all("must be whole and written by `ptl-prefix train`" in refusal for refusal in refusals)


def test_a_flipped_bit_of_a_tensor_is_refused(checkpoint: Path) -> None:
    content = bytearray(checkpoint.read_bytes())
    content[content.index(torch.arange(64.0).numpy().tobytes()) + 10] ^= 1
    checkpoint.write_bytes(content)

    with pytest.raises(RunError, match=r"do not have the checksum that was stored|Bad CRC"):
        read_checkpoint(checkpoint)


@pytest.mark.parametrize("content", [b"", b"not an archive", None], ids=["empty", "text", "missing"])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "last.ckpt"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(RunError, match="must be whole and written by `ptl-prefix train`"):
        read_checkpoint(path)
