"""Messages on machines that cannot run METEOR; `metrics/test_meteor.py` tests its values."""

import importlib.metadata
import json
import os
import stat
from pathlib import Path

import pytest
from support.command_lines import run
from support.made_up_predictions import random_predictions

from ptl_prefix.artifacts.predictions import write_predictions
from ptl_prefix.evaluation import meteor_program
from ptl_prefix.evaluation.scoring import score

needs_the_program = pytest.mark.skipif(
    meteor_program._jar() is None, reason="needs pycocoevalcap: pip install .[meteor]"
)


@needs_the_program
def test_without_java_it_is_named_as_missing_and_the_rest_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    scores = score(random_predictions(5), ["meteor", "meteor_webnlg", "bleu"])

    assert scores.values.keys() == {"bleu", "bleu/seen", "bleu/unseen"}
    assert scores.unavailable.keys() == {"meteor", "meteor_webnlg"}
    assert "needs Java, but there is no `java` on the PATH; install" in scores.unavailable["meteor"]


@needs_the_program
def test_the_command_names_unavailable_reason_on_stderr_and_ends_well(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    write_predictions(tmp_path / "predictions.jsonl", random_predictions(5))

    done = run("score", "predictions.jsonl", "metrics=[meteor,bleu]", "format=json", cwd=tmp_path)

    assert done.returncode == 0
    assert set(json.loads(done.stdout)) == {"bleu", "groups"}
    assert done.stderr.startswith("meteor is skipped: it needs Java")
    assert done.stderr.count("\n") == 1


def test_without_the_package_the_way_to_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.distribution", absent)

    assert "pip install 'ptl-prefix[meteor]'" in score(random_predictions(3), ["meteor"]).unavailable["meteor"]


@needs_the_program
@pytest.mark.parametrize(
    ("script", "fact"),
    [
        ("echo no memory >&2; exit 3", "code 3 and printed: no memory"),
        ("echo 1.0 2.0", "code 0 and printed: nothing"),
    ],
)
def test_a_program_that_fails_is_named_as_missing_with_what_it_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, fact: str
) -> None:
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\ncat > /dev/null\n{script}\n")
    java.chmod(java.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    assert fact in score(random_predictions(3), ["meteor"]).unavailable["meteor"]
