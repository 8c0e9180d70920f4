"""METEOR 1.5, a Java program, asked for its statistics.

In: hypotheses and their references. Out: a row of counts for each, and the score of such rows' sum. The program and
its tables of stems, synonyms and paraphrases lie in the package pycocoevalcap. The formula that makes a score of the
counts is written out here, so that any part or resample of a set needs no Java; tests hold it against the program's
own score.

Denkowski & Lavie, WMT 2014; English, tuned to rankings, which is the program's default and what the challenges used.
"""

import importlib.metadata
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ptl_prefix.evaluation.metric import MetricFailedError, Statistics

_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_MODULE_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # equal words, stems, synonyms, paraphrases
_COLUMNS = 23


def unavailable_reason() -> str | None:
    """What keeps METEOR from running here, as a sentence; `None` if nothing."""
    if _jar() is None:
        return "it needs the package pycocoevalcap, which is not installed; pip install 'ptl-prefix[meteor]'."
    if shutil.which("java") is None:
        return "it needs Java, but there is no `java` on the PATH; install a runtime (Debian: default-jre-headless)."
    return None


def meteor_rows(compared: Iterable[tuple[str, Iterable[str]]]) -> Statistics:
    """The program's counts for each hypothesis beside the best of its references.

    Raises:
        MetricFailedError: The program failed.
    """
    lines = [" ||| ".join(["SCORE", *map(_plain, texts), _plain(written)]) for written, texts in compared]
    command = ["java", "-Dfile.encoding=UTF-8", "-Xmx2G", "-jar", str(_jar()), "-", "-", "-stdio", "-l", "en", "-norm"]
    asked = "".join(f"{line}\n" for line in lines).encode()
    done = subprocess.run(command, input=asked, capture_output=True, check=False)
    answers = [line.split() for line in done.stdout.decode("utf-8", "replace").splitlines()]
    if done.returncode or [len(answer) for answer in answers] != [_COLUMNS] * len(lines):
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["nothing"]
        raise MetricFailedError(
            f"its Java program must count in each text, but ended with {done.returncode} and said: {said[-1]}"
        )
    return _without_perfect_chunks(np.array(answers, dtype=np.float64))


def meteor_score(total: Statistics) -> float:
    """The score of summed counts, from 0 to 1."""
    lengths, function_words, matches, (chunks, *matched_words) = total[:2], total[2:4], total[4:20], total[20:]
    if not all(matched_words):
        return 0.0
    # For each module: content words of the hypothesis and of the reference, then function words of both.
    content, function = matches.reshape(4, 2, 2).swapaxes(0, 1)
    weighted = _DELTA * _MODULE_WEIGHTS @ content + (1 - _DELTA) * _MODULE_WEIGHTS @ function
    precision, recall = weighted / (_DELTA * (lengths - function_words) + (1 - _DELTA) * function_words)
    mean = 1 / ((1 - _ALPHA) / precision + _ALPHA / recall)
    fragmentation = chunks / (sum(matched_words) / 2)
    return float(mean * (1 - _GAMMA * fragmentation**_BETA))


def _without_perfect_chunks(rows: Statistics) -> Statistics:
    """A hypothesis that is wholly one chunk of its reference is not in pieces: the program counts no chunk of it."""
    matches = rows[:, 4:20].reshape(-1, 8, 2).sum(axis=1)
    is_perfect = (matches == rows[:, :2]).all(axis=1) & (rows[:, 20] == 1)
    rows[is_perfect, 20] = 0
    return rows


def _jar() -> Path | None:
    try:
        package = importlib.metadata.distribution("pycocoevalcap")
    except importlib.metadata.PackageNotFoundError:
        return None
    return Path(str(package.locate_file("pycocoevalcap/meteor/meteor-1.5.jar")))


def _plain(text: str) -> str:
    """One line, without what the program takes for the end of a text."""
    return " ".join(text.replace("|||", " ").split())
