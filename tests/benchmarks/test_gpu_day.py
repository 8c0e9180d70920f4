"""The code of a day with a GPU runs on a CPU, with tiny shapes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import attention_ways as attention
from benchmarks import gpu_day, gpu_parts
from benchmarks.cold_start import summarize

ABSENT = (
    "datasets",
    "gguf",
    "hydra",
    "omegaconf",
    "optuna",
    "plotly",
    "rouge_score",
    "sqlalchemy",
    "starlette",
    "text_unidecode",
    "uvicorn",
    "wandb",
    "wandb_workspaces",
)
"""Libraries that a machine with a GPU need not have."""


def run_without(code: str, *, timeout: float) -> "subprocess.CompletedProcess[str]":
    """Run code in a process that cannot import these libraries."""
    block = f"import sys; sys.modules.update(dict.fromkeys({ABSENT!r}))"
    command = [sys.executable, "-c", f"{block}\n{code}"]
    root = Path(__file__).parents[2]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=timeout, check=False)


def inputs(kv_heads: int) -> attention.AttentionInputs:
    return attention.random_inputs(
        batch=2, heads=4, kv_heads=kv_heads, head_dim=8, text=5, prefix=3, device="cpu", dtype=torch.float32
    )


def written_out(given: attention.AttentionInputs) -> Tensor:
    """Softmax over [prefix; text], query by query."""
    key, value = given.joined()
    groups = given.query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    prefix, text = given.prefix_key.shape[2], given.query.shape[2]
    rows = []
    for place in range(text):
        seen = prefix + place + 1
        scores = given.query[:, :, place : place + 1] @ key[:, :, :seen].transpose(2, 3) * given.query.shape[-1] ** -0.5
        rows.append(scores.softmax(dim=-1) @ value[:, :, :seen])
    return torch.cat(rows, dim=2)


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("way", ["explicit mask", "two parts"])
def test_a_way_of_attention_is_the_softmax_over_prefix_and_text(way: str, kv_heads: int) -> None:
    given = inputs(kv_heads)
    expected = written_out(given)

    output = attention.ways(given)[way]()

    torch.testing.assert_close(output, expected)
    for own, other in zip(attention.gradients_of(given, output), attention.gradients_of(given, expected), strict=True):
        torch.testing.assert_close(own, other)


@pytest.mark.filterwarnings("ignore:flex_attention called without:UserWarning")
def test_flex_attention_is_the_softmax_over_prefix_and_text() -> None:
    given = inputs(2)

    with torch.no_grad():
        output = attention.ways(given)["flex"]()

    torch.testing.assert_close(output, written_out(given))


def test_a_difference_is_relative_to_the_largest_number() -> None:
    assert attention.largest_difference([torch.tensor([4.0, 1.0])], [torch.tensor([4.0, 1.5])]) == 0.125


def test_the_start_of_a_command_is_compared_by_medians() -> None:
    measured = {
        "train": [{"cpu_s": seconds, "libraries": ["torch", "hydra"]} for seconds in (12.0, 11.0, 30.0)],
        "script": [{"cpu_s": seconds, "libraries": ["torch"]} for seconds in (10.0, 9.0, 11.0)],
    }

    result = summarize(measured, [0.2, 0.3, 0.1])

    assert result["ratio"] == 1.2
    assert (result["help_cpu_s"], result["only_train_imports"]) == (0.2, ["hydra"])


def test_a_part_that_fails_is_told_and_keeps_no_other_from_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> gpu_parts.Lines:
        raise ValueError("no such kernel")

    monkeypatch.setattr(gpu_day, "PARTS", {"first": fails, "second": lambda shape, *_: [{"way": shape}]})
    words = ["--device", "cpu", "--tiny", "--json", str(tmp_path / "report.json")]

    assert gpu_day.main(words) == 1
    assert gpu_day.main([*words, "--only", "second"]) == 0
    assert gpu_day.main([*words, "--limit-s", "-1"]) == 0

    printed = capsys.readouterr().out
    assert printed.count("ValueError: no such kernel") == len(gpu_parts.TINY.shapes)
    assert printed.count("second, tiny: way tiny\n") == 2
    assert "first, tiny: left out, as -1 s are over" in printed


def test_ways_of_attention_that_differ_fail_their_part(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = attention.ways

    def with_a_wrong_one(given: attention.AttentionInputs) -> dict[str, Any]:
        right = ways(given)["explicit mask"]
        return {"explicit mask": right, "wrong": lambda: 1.1 * right()}

    monkeypatch.setattr(attention, "ways", with_a_wrong_one)

    with pytest.raises(RuntimeError, match="All ways of attention must have equal outputs and gradients"):
        gpu_parts.measure_attention("tiny", gpu_parts.TINY, "cpu")


def test_what_it_imports_is_on_a_machine_with_a_gpu() -> None:
    done = run_without("from benchmarks.gpu_day import main\nmain(['--help'])", timeout=300)

    assert done.returncode == 0, done.stderr
    assert "--tiny" in done.stdout


@pytest.mark.slow
def test_all_parts_run_without_the_libraries_of_commands(tmp_path: Path) -> None:
    words = ["--device", "cpu", "--tiny", "--json", str(tmp_path / "report.json")]

    done = run_without(f"from benchmarks.gpu_day import main\nsys.exit(main({words!r}))", timeout=900)

    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["left_out"] == []
    assert {name.partition(",")[0] for name in report["parts"]} == {
        "attention",
        "steps",
        "packed",
        "decoding",
        "serving",
    }
    lines = [line for name, lines in report["parts"].items() if name.startswith("attention") for line in lines]
    assert [line["equal"] for line in lines if "way" in line] == [True] * 6
