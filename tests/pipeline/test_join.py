"""`ptl-prefix join` from the command line: what is written, and what is refused with numbers."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from support.command_lines import Finished, Invoke

from ptl_prefix.artifacts.bundle import BundleContents, read_bundle, write_bundle
from ptl_prefix.artifacts.run_folder import RunFolder


@pytest.fixture
def other_run(small_run: RunFolder, tmp_path: Path) -> RunFolder:
    """A run whose prefix spoils everything: large numbers, drawn at random."""
    folder = RunFolder(shutil.copytree(small_run.path, tmp_path / "other"))
    bundle = read_bundle(folder.bundle)
    generator = torch.Generator().manual_seed(0)
    tensors = {name: 5 * torch.randn(one.shape, generator=generator) for name, one in bundle.tensors.items()}
    stated = {field.name for field in dataclasses.fields(BundleContents)} - {"tensors", "routing"}
    write_bundle(
        folder.bundle, BundleContents(tensors=tensors, **{name: getattr(bundle.manifest, name) for name in stated})
    )
    return folder


def test_a_join_that_is_not_worse_is_written_with_what_it_was_made_of(
    small_run: RunFolder, other_run: RunFolder, invoke: Invoke
) -> None:
    words = ("join", small_run.path, other_run.bundle, "out=joined", "max_loss_increase=50", "metrics=true")

    result = invoke(*words, "num_decoded=2", "num_examples=4")

    assert result.exit_code == 0, result.output
    first, second, joined = (read_bundle(path) for path in (small_run.path, other_run.path, "joined"))
    manifest = joined.manifest
    assert manifest.task == "table_to_text+table_to_text"
    hashes = [one.manifest.tensors_sha256[:16] for one in (first, second)]
    assert manifest.task_version == f"1@{hashes[0]}+1@{hashes[1]}"
    assert manifest.settings["prefix_length"] == 6
    assert manifest.metrics.keys() == {
        f"val/{name}/{group}" for name in ("loss", "loss_alone") for group in ("first", "second")
    }
    for name, tensor in joined.tensors.items():
        assert torch.equal(tensor, torch.cat([first.tensors[name], second.tensors[name]], dim=2))
    assert "learned positions cannot be moved" in result.stdout
    assert "exact_match" in result.stdout
    assert result.stdout.rstrip().endswith("bundle: joined")
    assert invoke("generate", "joined", "name : The Old Mill").exit_code == 0


def test_a_join_that_is_worse_is_refused_with_numbers_and_nothing_is_written(
    small_run: RunFolder, other_run: RunFolder, invoke: Invoke
) -> None:
    result = invoke("join", small_run.path, other_run.path, "out=joined", "num_examples=4", "resamples=100")

    assert result.exit_code == 1
    assert "on table_to_text it may be" in result.stderr
    assert "above that of the first alone" in result.stderr
    assert "nothing was written" in result.stderr
    assert "4 of 4" in result.stdout
    assert "its upper end is above 0.02" in result.stdout
    assert list(Path().iterdir()) == []


def test_mistakes_are_said_before_the_backbone_is_loaded(
    small_run: RunFolder, other_run: RunFolder, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ptl_prefix.commands.bundle.join.load_bundle_backbone", None)
    alone = Path(shutil.copytree(small_run.bundle, "alone"))
    Path("mine").mkdir()
    Path("mine", "thesis.txt").touch()

    one_word = invoke("join", small_run.path, "out=joined")
    no_run = invoke("join", alone, other_run.path, "out=joined")
    wrong_run = invoke("join", alone, other_run.path, "out=joined", "first_run=nowhere")
    taken = invoke("join", small_run.path, other_run.path, "out=mine")
    assert [one.exit_code for one in (one_word, no_run, wrong_run, taken)] == [2, 2, 2, 1]
    assert "`join` needs two bundles or run folders as arguments, but got 1" in one_word.stderr
    assert "add first_run=<run folder>" in no_run.stderr
    assert "`first_run`: " in wrong_run.stderr
    assert "also holds 'thesis.txt'" in taken.stderr


@pytest.mark.slow
def test_two_prefixes_of_the_embedded_backbone_are_joined(finished: Finished, invoke: Invoke) -> None:
    folder = finished.folder
    alone = Path(shutil.copytree(folder.bundle, "alone"))

    result = invoke("join", folder.path, alone, f"second_run={folder.path}", "out=joined", "max_loss_increase=5")

    assert result.exit_code == 0, result.output
    assert "8 of 8" in result.stdout
    assert read_bundle("joined").manifest.settings["prefix_length"] == 20
