"""The benchmark of decoding: one way lets rows leave, the other waits, and both give the same texts in float32."""

import json
from pathlib import Path

import pytest
from support.made_up_e2e import write_e2e

from benchmarks import decode_test_split as benchmark
from ptl_prefix.backbones import greedy


def test_both_ways_decode_the_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(benchmark, "_TRAIN_EXAMPLES", 6)
    calls: list[int] = []
    decode_greedily = greedy.decode_greedily
    monkeypatch.setattr(
        benchmark.generation,
        "decode_greedily",
        lambda *given: (calls.append(given[1].num_rows), decode_greedily(*given))[1],
    )
    words = ["--data", str(write_e2e(tmp_path)), "--steps", "2", "--batch-size", "4", "--rounds", "1"]

    benchmark.main([*words, "--json", str(tmp_path / "decoding.json")])

    report = json.loads((tmp_path / "decoding.json").read_text(encoding="utf-8"))
    assert calls == [4, 2] * 2, "one way of two, in the warm-up and in the round"
    assert (report["num_inputs"], report["num_different"]) == (6, 0)
    (leaving_s,), (waiting_s,) = (report["seconds"][way] for way in (benchmark.LEAVING, benchmark.WAITING))
    assert report["ratio"]["median"] == pytest.approx(leaving_s / waiting_s)
