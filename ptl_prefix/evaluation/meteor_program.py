"""Interface to the Java program METEOR 1.5 (Denkowski & Lavie, WMT 2014).

In: hypotheses and their references. Out: a row of counts for each, and the score of a sum of rows. The program and its
tables of stems, synonyms and paraphrases are part of the package pycocoevalcap. The formula from counts to score is
implemented here, so that parts and resamples of a set need no Java; tests compare it with the program's own score.

The settings are the program's defaults, which the challenges used: English, tuned to rankings.
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
    """The reason why METEOR cannot run on this machine, as a sentence; `None` if it can."""
    if _jar() is None:
        return "it needs the package pycocoevalcap, which is not installed; pip install 'ptl-prefix[meteor]'."
    if shutil.which("java") is None:
        return "it needs Java, but there is no `java` on the PATH; install a runtime (Debian: default-jre-headless)."
    return None


def meteor_rows(compared: Iterable[tuple[str, Iterable[str]]]) -> Statistics:
    """Count the matches of each hypothesis with the best of its references.

    Raises:
        MetricFailedError: The program failed.
    """
    lines = [" ||| ".join(["SCORE", *map(_one_line, texts), _one_line(written)]) for written, texts in compared]
    command = ["java", "-Dfile.encoding=UTF-8", "-Xmx2G", "-jar", str(_jar()), "-", "-", "-stdio", "-l", "en", "-norm"]
    request = "".join(f"{line}\n" for line in lines).encode()
    done = subprocess.run(command, input=request, capture_output=True, check=False)
    answers = [line.split() for line in done.stdout.decode("utf-8", "replace").splitlines()]
    if done.returncode or [len(answer) for answer in answers] != [_COLUMNS] * len(lines):
        messages = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["nothing"]
        raise MetricFailedError(
            f"its Java program must return counts for each text, but ended with code {done.returncode} and printed: "
            f"{messages[-1]}"
        )
    return _without_perfect_chunks(np.array(answers, dtype=np.float64))


def meteor_score(total: Statistics) -> float:
    """The score of summed counts, from 0 to 1."""
    lengths, function_words, matches, (chunks, *matched_words) = total[:2], total[2:4], total[4:20], total[20:]
    if not all(matched_words):
        return 0.0
    # Each module has counts of content words in hypothesis and reference, then of function words in both.
    content, function = matches.reshape(4, 2, 2).swapaxes(0, 1)
    weighted = _DELTA * _MODULE_WEIGHTS @ content + (1 - _DELTA) * _MODULE_WEIGHTS @ function
    precision, recall = weighted / (_DELTA * (lengths - function_words) + (1 - _DELTA) * function_words)
    mean = 1 / ((1 - _ALPHA) / precision + _ALPHA / recall)
    fragmentation = chunks / (sum(matched_words) / 2)
    return float(mean * (1 - _GAMMA * fragmentation**_BETA))


def _without_perfect_chunks(rows: Statistics) -> Statistics:
    """Set the chunks of a hypothesis that matches its reference as a whole to 0, as the program does."""
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


def _one_line(text: str) -> str:
    """A text on one line, without the program's separator."""
    return " ".join(text.replace("|||", " ").split())
