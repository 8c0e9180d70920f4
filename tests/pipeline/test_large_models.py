"""The tables of `docs/how-to/large_models.md`, computed again; and dry runs of backbones without weights."""

import re
from pathlib import Path

import pytest
from support.command_lines import CommandLine, run

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.shape import LlamaSpec
from ptl_prefix.methods.prefix_tuning import PrefixTuning

PAGE = Path(__file__).parents[2] / "docs/how-to/large_models.md"
_NUMBER_BYTES = 4
"""A bundle holds float32."""


@pytest.fixture(scope="module")
def llama_13b() -> Backbone:
    """Its shapes."""
    return LlamaSpec().load_shape()


def num_stored(backbone: Backbone, prefix_length: int) -> int:
    """Numbers in the bundle of a prefix."""
    method = PrefixTuning(prefix_length=prefix_length).attach(backbone)
    try:
        return method.num_stored
    finally:
        method.detach()


def size(number: int) -> str:
    """Bytes as the page writes them."""
    return f"{number / 1e9:,.2f} GB" if number >= 1e9 else f"{number / 1e6:,.1f} MB"


def rows_of(backbone: Backbone) -> list[str]:
    """The table's rows."""
    base, row = backbone.num_bytes, num_stored(backbone, 1)
    rows = [("one backbone, in bfloat16", f"{backbone.num_parameters:,}", size(base))]
    for length in (2, 10, 100):
        three = 3 * length * row
        rows.append((f"three prefixes of length {length}", f"3 × {length * row:,}", size(_NUMBER_BYTES * three)))
    rows.append(("three full copies, in bfloat16", f"3 × {backbone.num_parameters:,}", size(3 * base)))
    return [f"| {' | '.join(cells)} |" for cells in rows]


def test_the_table_of_three_tasks_is_what_the_code_computes(llama_13b: Backbone) -> None:
    assert "\n".join(rows_of(llama_13b)) in PAGE.read_text(encoding="utf-8")


def test_a_million_parameters_are_as_many_positions_as_the_page_says(llama_13b: Backbone) -> None:
    row = num_stored(llama_13b, 1)

    assert row == 2 * 40 * 5120
    assert f"2 × 40 layers × 5,120 = {row:,} parameters" in PAGE.read_text(encoding="utf-8")
    assert f"{10**6 / row:.1f} positions long" in PAGE.read_text(encoding="utf-8")
    assert PrefixTuning(match_parameters=10**6).choose_settings(llama_13b)["prefix_length"] == 2


OUTLINE = ["backbone=llama_13b", "method=prefix_tuning"]


@pytest.mark.slow
def test_a_dry_run_of_13b_needs_no_weights_and_no_folder(command_line: CommandLine, tmp_path: Path) -> None:
    process = run("train", *OUTLINE, *command_line.embedded, "dry_run=true", cwd=tmp_path)

    assert process.returncode == 0, process.stderr
    assert "13,015,864,320" in process.stdout
    assert "26,031.7 MB" in process.stdout
    assert "llama_13b has no tokenizer here" in process.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_training_without_weights_is_refused_in_a_sentence(command_line: CommandLine, tmp_path: Path) -> None:
    process = run("train", *OUTLINE, *command_line.embedded, cwd=tmp_path)

    assert process.returncode == 2
    assert "nothing was loaded" in process.stderr
    assert "`backbone` must have weights, but llama_13b is an architecture without weights" in process.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_evaluating_without_weights_is_refused_in_a_sentence(tmp_path: Path) -> None:
    process = run("evaluate", "backbone=llama_13b", "task=table_to_text", cwd=tmp_path)

    assert process.returncode == 2
    assert "`backbone` must have weights, but llama_13b" in process.stderr


@pytest.mark.slow
@pytest.mark.parametrize("method", ["prefix_tuning", "lora", "full_finetuning", "lora trainer=fsdp trainer.devices=4"])
def test_the_table_of_memory_is_what_a_dry_run_says(method: str, tmp_path: Path) -> None:
    chosen = method.split() if "trainer=" in method else [method, "trainer=ddp"]
    words = ["backbone=llama_13b", "dry_run=true", "data.cache_dir=cache", f"method={chosen[0]}", *chosen[1:]]

    process = run("train", *words, cwd=tmp_path)

    assert process.returncode == 0, process.stderr
    found = [
        _shown(process.stdout, name) for name in ("backbone", "memory, estimated", "with gradient_checkpointing=true")
    ]
    cells = [f"`{method}`", _shown_count(process.stdout), *(f"{megabytes / 1e3:,.1f} GB" for megabytes in found)]
    assert f"| {' | '.join(cells)} |" in PAGE.read_text(encoding="utf-8"), cells


def _shown(output: str, name: str) -> float:
    """The megabytes of a row of a dry run's table."""
    found = re.search(rf"│ +{re.escape(name)} +│ ([\d,.]+) MB", output)
    assert found, output
    return float(found[1].replace(",", ""))


def _shown_count(output: str) -> str:
    found = re.search(r"│ trainable parameters +│ ([\d,]+) ", output)
    assert found, output
    return found[1]
