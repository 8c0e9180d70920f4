"""The benchmark of the LM head: both ways compute the same loss, and peaks are those of a process each."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import head_memory
from benchmarks.step_builders import Setting
from ptl_prefix.evaluation import loss

SETTING = Setting(
    shape="tiny",
    device="cpu",
    dtype="float32",
    batch_size=4,
    source_tokens=8,
    target_tokens=24,
    prefix_length=3,
    hidden_size=0,
    rank=0,
)


def test_one_way_computes_chunks_and_the_other_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "num_positions_in_chunk", lambda vocabulary: 32)
    sizes: list[int] = []
    part_nats = loss.LossPart.nats

    def nats(self: loss.LossPart, logits: torch.Tensor, *rest: slice) -> torch.Tensor:
        sizes.append(len(logits))
        return part_nats(self, logits, *rest)

    monkeypatch.setattr(loss.LossPart, "nats", nats)
    stages = head_memory.stages(SETTING, validation_rows=8)
    found = {}
    for way in (head_memory.CHUNKS, head_memory.WHOLE):
        sizes.clear()
        found[way] = (stages["validation", way](), max(sizes), len(sizes))

    chunked, whole = found[head_memory.CHUNKS], found[head_memory.WHOLE]
    assert chunked[0] == pytest.approx(whole[0], rel=1e-5)
    assert (chunked[1], whole[2]) == (32, 1)
    assert chunked[2] > 1
    assert whole[1] > 32
    stages["training", head_memory.CHUNKS]()
    assert stages["validation", head_memory.WHOLE]() != pytest.approx(whole[0], rel=1e-6), "a step has been taken"


@pytest.mark.slow
def test_all_peaks_and_times_are_written(tmp_path: Path) -> None:
    words = ["--shape", "tiny", "--batch-size", "2", "--validation-rows", "4", "--rounds", "1"]

    head_memory.main([*words, "--json", str(tmp_path / "head.json")])

    report = json.loads((tmp_path / "head.json").read_text(encoding="utf-8"))
    assert [(one["stage"], one["way"]) for one in report["measurements"]] == [
        (stage, way) for stage in head_memory.STAGES for way in (head_memory.CHUNKS, head_memory.WHOLE)
    ]
    assert all(one["peak_bytes"] > 2**26 and one["seconds"][0] > 0 for one in report["measurements"])
    ratios = [one["over_whole"]["median"] for one in report["measurements"]]
    assert ratios[1::2] == [1.0, 1.0], "all at once is what the chunks are compared with"
    assert report["chunk"] == 4096
