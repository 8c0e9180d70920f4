"""What routing needs to know of a bundle's task, as the arrays of `routing.safetensors`.

In: counts of the training inputs and rows of some validation inputs; or arrays from a file of anyone. Out: arrays; or
`RoutingFacts`, else `DocumentError`. The file holds numbers only: hashed counts, and averaged hidden states if they
were asked for. No text, token or token id is in it.

That is no secrecy. Whoever has the file can test whether a word or a pair of words occurs in the training inputs (a
"yes" is wrong as often as the column is shared), and can guess a short validation input from a list of likely words.
A bundle of private texts is exported with `routing=none`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ptl_prefix.artifacts.json_document import DocumentError
from ptl_prefix.artifacts.ngram_counts import NUM_COLUMNS, Integers, NgramCounts

MAX_VALIDATION = 200
"""Validation inputs in a bundle; a rate of wrong refusals of 0.05 needs 19 of them."""
MAX_WIDTH = 2**16
"""Largest width of hidden states; with `MAX_VALIDATION` it bounds the file."""
_LARGEST_COUNT = 2**15 - 1
_LARGEST_HALF = 65504.0

Array = npt.NDArray[Any]
Vectors = npt.NDArray[np.float32]

_NGRAMS = {
    "ngrams.columns": ("int16", 1, NUM_COLUMNS),
    "ngrams.counts": ("int32", 1, NUM_COLUMNS),
    "validation.starts": ("int32", 1, MAX_VALIDATION + 1),
    "validation.columns": ("int16", 1, MAX_VALIDATION * NUM_COLUMNS),
    "validation.counts": ("int16", 1, MAX_VALIDATION * NUM_COLUMNS),
}
_STATES = {
    "states.mean": ("float32", 1, MAX_WIDTH),
    "states.deviation": ("float32", 1, MAX_WIDTH),
    "states.validation": ("float16", 2, MAX_VALIDATION * MAX_WIDTH),
}
"""Dtype, number of axes and largest number of elements of each array; the hidden states are there together or not."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StateFacts:
    """Mean hidden states of the bare backbone over the tokens of each input.

    Args:
        mean: Mean over training inputs.
        deviation: Standard deviation of each dimension over them.
        validation: One row for each validation input.
    """

    mean: Vectors
    deviation: Vectors
    validation: Vectors


@dataclass(frozen=True, kw_only=True, eq=False)
class RoutingFacts:
    """What a router learns from one bundle.

    Args:
        num_inputs: Number of training inputs that were counted.
        trained: Their n-grams, counted together: one row.
        validation: Counts of validation inputs, at most `MAX_VALIDATION`.
        states: Hidden states; `None` if the bundle was exported without.
    """

    num_inputs: int
    trained: NgramCounts
    validation: NgramCounts
    states: StateFacts | None = None

    @property
    def totals(self) -> Integers:
        """The n-grams of the training inputs; one number for each of `NUM_COLUMNS` columns."""
        totals = np.zeros(NUM_COLUMNS, dtype=np.int64)
        totals[self.trained.columns] = self.trained.counts
        return totals

    def to_arrays(self) -> dict[str, Array]:
        """The arrays of the file, by name."""
        arrays: dict[str, Array] = {
            "ngrams.columns": self.trained.columns.astype(np.int16),
            "ngrams.counts": np.minimum(self.trained.counts, 2**31 - 1).astype(np.int32),
            "validation.starts": self.validation.starts.astype(np.int32),
            "validation.columns": self.validation.columns.astype(np.int16),
            "validation.counts": np.minimum(self.validation.counts, _LARGEST_COUNT).astype(np.int16),
        }
        if self.states is not None:
            arrays |= {
                "states.mean": self.states.mean.astype(np.float32),
                "states.deviation": self.states.deviation.astype(np.float32),
                "states.validation": np.clip(self.states.validation, -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16),
            }
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], num_inputs: int) -> "RoutingFacts":
        """The facts that a file holds.

        Raises:
            DocumentError: They are not what `to_arrays` writes; the message is the end of a sentence.
        """
        check_shapes({name: (array.shape, str(array.dtype)) for name, array in arrays.items()})
        # Of thousands of bundles, columns and counts stay as narrow as in the file.
        narrow: dict[str, Any] = {name: arrays[name] for name in _NGRAMS}
        columns, starts = narrow["ngrams.columns"], narrow["validation.starts"].astype(np.int64)
        trained = NgramCounts(np.array([0, len(columns)]), columns, narrow["ngrams.counts"])
        _check_rows("ngrams", trained)
        validation = NgramCounts(starts, narrow["validation.columns"], narrow["validation.counts"])
        _check_rows("validation", validation)
        return cls(num_inputs=num_inputs, trained=trained, validation=validation, states=_states(arrays))


def check_shapes(found: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
    """Check the names, axes, sizes and dtypes that a manifest claims, before anything of that size is read.

    Raises:
        DocumentError: A file of routing facts cannot have these arrays.
    """
    known = {**_NGRAMS, **(_STATES if _STATES.keys() & found.keys() else {})}
    for name in sorted(known.keys() | found.keys()):
        if name not in known or name not in found:
            raise DocumentError(f"{'has' if name not in known else 'has no'} array {name!r:.80}")
        (dtype, num_axes, most), (shape, found_dtype) = known[name], found[name]
        size = int(np.prod(shape, dtype=object)) if shape else 1
        if (found_dtype, len(shape)) != (dtype, num_axes) or size > most:
            raise DocumentError(
                f"has {found_dtype} of shape {shape} as {name!r}, not {dtype} of {num_axes} axes and at most {most} "
                "elements"
            )


def _check_rows(name: str, rows: NgramCounts) -> None:
    """Check that starts divide the entries, and that each row has increasing columns and positive counts."""
    starts, columns, counts = rows.starts, rows.columns, rows.counts
    if len(columns) != len(counts):
        raise DocumentError(f"has {len(columns)} columns and {len(counts)} counts in {name!r}")
    if len(starts) == 0 or starts[0] != 0 or starts[-1] != len(columns) or (np.diff(starts) < 0).any():
        raise DocumentError(f"has starts in {name!r} that do not divide its {len(columns)} entries")
    if len(columns) and (columns.min() < 0 or columns.max() >= NUM_COLUMNS):
        raise DocumentError(f"has a column in {name!r} outside 0 to {NUM_COLUMNS - 1}")
    same_row = np.diff(rows.rows) == 0
    if (np.diff(columns)[same_row] <= 0).any():
        raise DocumentError(f"has columns in {name!r} that repeat or decrease within a row")
    if (counts < 1).any():
        raise DocumentError(f"has a count below 1 in {name!r}")


def _states(arrays: Mapping[str, Array]) -> StateFacts | None:
    if "states.mean" not in arrays:
        return None
    found = {name: arrays[name].astype(np.float32) for name in _STATES}
    mean, deviation, validation = (found[f"states.{part}"] for part in ("mean", "deviation", "validation"))
    if not (len(mean) == len(deviation) == validation.shape[1]) or len(mean) == 0 or len(validation) > MAX_VALIDATION:
        raise DocumentError(f"has hidden states of the widths {len(mean)}, {len(deviation)} and {validation.shape}")
    if any(not np.isfinite(one).all() for one in found.values()) or (deviation < 0).any():
        raise DocumentError("has hidden states that are not finite, or a negative deviation")
    return StateFacts(mean=mean, deviation=deviation, validation=validation)
