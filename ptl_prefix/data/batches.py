"""Batches of encoded rows, in an order that depends on the seed and the epoch alone.

In: an `EncodedSplit`, or prompts. Out: `ModelInputs`. Rows of similar length share a batch, which keeps padding low.
The training order comes from a generator of its own, never from the global one, and can be saved at any batch: a run
that is resumed within an epoch gets exactly the batches that are left of it.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from ptl_prefix.backbones.model_inputs import ModelInputs, Padding, prompt_batch
from ptl_prefix.data.collation import EncodedRow, LayerInputs, Teacher, batch_width, collate_training
from ptl_prefix.data.encoded_split import EncodedSplit
from ptl_prefix.data.packing import collate_packed, shared_length
from ptl_prefix.data.rank_share import ALONE, Indices, RankShare

_POOL_BATCHES = 50
"""Number of batches whose rows are sorted by length together: enough for little padding, few enough that an epoch
stays shuffled."""


_NESTED_SEED = 20_210_101
"""Seed of the one order from which subsets of examples are drawn: not the run's, as runs are compared on them."""


@dataclass(frozen=True)
class RowLayout:
    """What shares a row of a batch; only decoder-only backbones have other layouts than the default.

    Args:
        packing: Whether several examples do.
        share_sources: Whether the targets of an example do, with its prompt, which is then computed once. Such
            examples are packed, too.
    """

    packing: bool = False
    share_sources: bool = False

    def collate(self, rows: Sequence[EncodedRow], padding: Padding, teacher: Teacher | None) -> ModelInputs:
        """Make a batch of pairs; those of one example are neighbours. A teacher is matched in rows of one pair."""
        if not rows or not (self.packing or self.share_sources):
            return collate_training(rows, padding, teacher)
        assert teacher is None, "it is refused before rows are collated"
        return collate_packed(rows, pad_id=padding.pad_id, shares_sources=self.share_sources)


PLAIN = RowLayout()
"""One pair in each row."""


class TrainBatches:
    """Training batches: every row once per epoch, shuffled, in batches of similar length.

    One pass of `iter` yields the rest of the current epoch; the next pass starts the next epoch. A pass that is left
    early is continued by the next one, so a limit on the number of batches never repeats a row.

    The rows of an optimizer step are drawn together, then divided among its batches, and each batch among the ranks.
    So two ranks with batches of B, one rank with batches of 2B, and one rank that accumulates two batches of B train on
    the same rows at every step. The last batches of an epoch can be without rows.

    With `share_sources`, examples are drawn in place of rows, each with all of its targets. A batch has as many
    examples as `batch_size` rows have on average, so that its number of rows varies. Packing changes no step: the same
    rows are in the same batches.

    Args:
        encoded: Encoded training split.
        batch_size: Rows of a batch, of all ranks together.
        padding: Pad id and decoder start ids, as in `collate_training`.
        seed: Seed of the order, together with the epoch.
        accumulation: Batches of an optimizer step.
        rank_share: Share of the rows of every batch that this process takes.
        accepts_other_rows: Whether a position among another number of rows is accepted: it starts the next epoch.
        layout: What shares a row of a batch.

    Raises:
        ValueError: There are no rows.
    """

    def __init__(
        self,
        encoded: EncodedSplit,
        *,
        batch_size: int,
        padding: Padding,
        seed: int,
        accumulation: int = 1,
        rank_share: RankShare = ALONE,
        accepts_other_rows: bool = False,
        layout: RowLayout = PLAIN,
    ) -> None:
        if not len(encoded):
            raise ValueError("There must be rows to train on, but there are none; check the training split.")
        self._encoded, self._padding, self._seed = encoded, padding, seed
        self._examples = _Examples(encoded) if layout.share_sources else None
        self._lengths = encoded.lengths if self._examples is None else self._examples.lengths
        self._batch_size = batch_size if self._examples is None else self._examples.batch_size(batch_size)
        self._accumulation, self._rank_share, self._layout = accumulation, rank_share, layout
        self._accepts_other_rows = accepts_other_rows
        self._epoch, self._num_handed_out = 0, 0

    def __len__(self) -> int:
        """Batches of one epoch, the same for each rank."""
        return num_batches(len(self._lengths), batch_size=self._batch_size, accumulation=self._accumulation)

    def __iter__(self) -> Iterator[ModelInputs]:
        if self._num_handed_out >= len(self):
            self._epoch, self._num_handed_out = self._epoch + 1, 0
        epoch, order = self._epoch, self.order(self._epoch)
        while self._epoch == epoch and self._num_handed_out < len(order):
            indices = order[self._num_handed_out]
            # Counted before it is yielded: a state that is saved while a batch is in use has this batch behind it.
            self._num_handed_out += 1
            rows = self._encoded.rows(self._rows(indices))
            yield self._layout.collate(rows, self._padding, self._encoded.teacher)

    def _rows(self, indices: Indices) -> Indices:
        """The rows of a batch of `order`."""
        return indices if self._examples is None else self._examples.rows(indices)

    def order(self, epoch: int) -> "EpochOrder":
        """The indices of the rows, or examples, of each of this rank's batches: a function of seed and epoch alone."""
        per_step = self._batch_size * self._accumulation
        generator = np.random.Generator(np.random.PCG64([self._seed, epoch]))
        rows = generator.permutation(len(self._lengths))
        for start in range(0, len(rows), per_step * _POOL_BATCHES):
            pool = rows[start : start + per_step * _POOL_BATCHES]
            pool[:] = pool[np.argsort(self._lengths[pool], kind="stable")]
        steps = generator.permutation(-(-len(rows) // per_step))
        return EpochOrder(rows, steps, self._batch_size, self._accumulation, self._rank_share)

    def starting_at(self, layer_inputs: LayerInputs) -> "TrainBatches":
        """The same batches from here on, each with what a layer reads of its rows."""
        batches = copy.copy(self)
        batches._encoded = self._encoded.starting_at(layer_inputs)
        return batches

    def padding_share(self) -> float:
        """The fraction of padding among all positions of this rank's current epoch, in rows of one pair."""
        batches = [self._rows(indices) for indices in self.order(self._epoch)]
        return _padding_share(_text_lengths(self._encoded, self._padding), batches)

    def state_dict(self) -> dict[str, Any]:
        """The position: the epoch, the number of its batches that were yielded, and the identity of the order."""
        return {"epoch": self._epoch, "num_handed_out": self._num_handed_out, "order_of": self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a position.

        Raises:
            ValueError: The position belongs to another order: other rows, another seed or batch size.
        """
        if self._accepts_other_rows and {**state["order_of"], "num_rows": len(self._encoded)} == self._identity():
            is_same = state["order_of"] == self._identity()
            self._epoch, self._num_handed_out = (
                (state["epoch"], state["num_handed_out"]) if is_same else (state["epoch"] + 1, 0)
            )
            return
        if state["order_of"] != self._identity():
            raise ValueError(
                "A position must be loaded into batches of the order that it was saved from, "
                f"but that was {state['order_of']} and this is {self._identity()}; use the same data and settings."
            )
        self._epoch, self._num_handed_out = state["epoch"], state["num_handed_out"]

    def _identity(self) -> dict[str, int]:
        # Named only if examples are drawn, so that positions saved by earlier versions are accepted.
        examples = {} if self._examples is None else {"num_examples": len(self._lengths)}
        return {
            "num_rows": len(self._encoded),
            "batch_size": self._batch_size,
            "accumulation": self._accumulation,
            "seed": self._seed,
            **examples,
        }


class _Examples:
    """The rows of a split by example; those of one example are neighbours.

    Args:
        encoded: Encoded split.
    """

    def __init__(self, encoded: EncodedSplit) -> None:
        examples = encoded.examples
        self._starts = np.flatnonzero(np.diff(examples, prepend=-1))
        self._ends = np.append(self._starts[1:], len(examples))
        # As if each prompt were computed once; one that was cut to several lengths is computed more often.
        shared = (self._ends - self._starts - 1) * np.maximum(encoded.num_source_ids[self._starts] - 1, 0)
        self.lengths: Indices = np.add.reduceat(encoded.lengths, self._starts) - shared

    def batch_size(self, num_rows: int) -> int:
        """The number of examples that have `num_rows` rows on average, at least one."""
        return max(1, round(num_rows * len(self._starts) / int(self._ends[-1])))

    def rows(self, indices: Indices) -> Indices:
        """The rows of some examples."""
        empty = np.zeros(0, dtype=np.int64)
        return np.concatenate([empty, *(np.arange(self._starts[one], self._ends[one]) for one in indices)])


@dataclass(frozen=True)
class EpochOrder(Sequence[Indices]):
    """The row indices of one rank's batches in one epoch, each made when it is asked for.

    A list of arrays would need hundreds of bytes for each batch: more than the rows of a large file.

    Args:
        rows: All rows; those of an optimizer step are beside each other.
        steps: Numbers of the steps, in the order in which they are taken.
        batch_size: Rows of a batch, of all ranks together.
        accumulation: Batches of an optimizer step.
        rank_share: Share of the rows of every batch that this process takes.
    """

    rows: Indices
    steps: Indices
    batch_size: int
    accumulation: int
    rank_share: RankShare

    def __len__(self) -> int:
        return len(self.steps) * self.accumulation

    @overload
    def __getitem__(self, index: int) -> Indices: ...

    @overload
    def __getitem__(self, index: slice) -> list[Indices]: ...

    def __getitem__(self, index: int | slice) -> Indices | list[Indices]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        step, batch = divmod(range(len(self))[index], self.accumulation)
        per_step = self.batch_size * self.accumulation
        in_step = self.rows[int(self.steps[step]) * per_step :][:per_step]
        return self.rank_share.of_rows(in_step[batch * self.batch_size :][: self.batch_size])


def batches_per_epoch(encoded: EncodedSplit, *, batch_size: int, accumulation: int, layout: RowLayout = PLAIN) -> int:
    """The number of batches of one epoch of `TrainBatches`."""
    if not layout.share_sources:
        return num_batches(len(encoded), batch_size=batch_size, accumulation=accumulation)
    examples = _Examples(encoded)
    return num_batches(len(examples.lengths), batch_size=examples.batch_size(batch_size), accumulation=accumulation)


def num_batches(num_rows: int, *, batch_size: int, accumulation: int) -> int:
    """The number of batches of one epoch of `TrainBatches`: whole steps, the last of which may have fewer rows."""
    return -(-num_rows // (batch_size * accumulation)) * accumulation


class EvalBatches:
    """Validation batches: every row once, the longest first, so that a batch too large for memory fails at once.

    Args:
        encoded: Encoded split.
        batch_size: Rows of a batch.
        padding: Pad id and decoder start ids, as in `collate_training`.
        num_rows: Number of rows, evenly spread over the split; `None` means all.
        rank_share: Share of the batches that this process takes.
        layout: What shares a row of a batch. The loss is the same for each, up to rounding.
        num_examples: Number of examples, each with all of its rows, of which those of a smaller number are a part;
            `None` means all.
    """

    def __init__(
        self,
        encoded: EncodedSplit,
        *,
        batch_size: int,
        padding: Padding,
        num_rows: int | None = None,
        rank_share: RankShare = ALONE,
        layout: RowLayout = PLAIN,
        num_examples: int | None = None,
    ) -> None:
        self._encoded, self._padding, self._layout = encoded, padding, layout
        kept = len(encoded) if num_rows is None else min(num_rows, len(encoded))
        rows = np.arange(kept, dtype=np.int64) * len(encoded) // kept
        if num_examples is not None:
            rows = rows[np.isin(encoded.examples[rows], nested_examples(encoded, num_examples))]
        self._rows: Indices = rows
        if layout.share_sources:
            batches = _whole_examples(encoded, rows, batch_size)
        else:
            batches = [rows[batch] for batch in _longest_first(encoded.lengths[rows], batch_size)]
        self._order = rank_share.of_batches(batches)

    @property
    def examples(self) -> Indices:
        """The indices of the examples, of all ranks together, ascending."""
        found: Indices = np.unique(self._encoded.examples[self._rows])
        return found

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[ModelInputs]:
        for indices in self._order:
            yield self._layout.collate(self._encoded.rows(indices), self._padding, self._encoded.teacher)

    def padding_share(self) -> float:
        """The fraction of padding among all positions, in rows of one pair."""
        return _padding_share(_text_lengths(self._encoded, self._padding), self._order)


def nested_examples(encoded: EncodedSplit, num_examples: int) -> Indices:
    """Indices of this many examples of a split, drawn the same way every time: the first of one fixed order.

    So the examples of a smaller number are among those of a larger one.
    """
    order = np.random.Generator(np.random.PCG64(_NESTED_SEED)).permutation(np.unique(encoded.examples))
    drawn: Indices = np.sort(order[:num_examples])
    return drawn


def _whole_examples(encoded: EncodedSplit, rows: Indices, batch_size: int) -> list[Indices]:
    """Batches of at most `batch_size` rows, the largest examples first; an example is divided only if it is larger."""
    starts = np.flatnonzero(np.diff(encoded.examples[rows], prepend=-1))
    pieces = [
        example[start : start + batch_size]
        for example in np.split(rows, starts[1:])
        for start in range(0, len(example), batch_size)
    ]
    lengths, sources = encoded.lengths, encoded.num_source_ids
    pieces.sort(key=lambda piece: -shared_length(lengths[piece].tolist(), int(sources[piece[0]])))
    batches: list[list[Indices]] = []
    num_rows = batch_size
    for piece in pieces:
        if num_rows + len(piece) > batch_size:
            batches.append([])
            num_rows = 0
        batches[-1].append(piece)
        num_rows += len(piece)
    return [np.concatenate(batch) for batch in batches]


def pair_batches(rows: Sequence[EncodedRow], *, batch_size: int, padding: Padding) -> Iterator[ModelInputs]:
    """Batches of encoded pairs, each pair once, the longest first."""
    lengths = np.array([len(row["input_ids"]) for row in rows], dtype=np.int64)
    for batch in _longest_first(lengths, batch_size):
        yield collate_training([rows[index] for index in batch], padding)


class PromptBatches:
    """Batches of prompts for generation, the longest first, each batch with the indices of its prompts.

    Args:
        prompts: Ids of each prompt.
        batch_size: Prompts of a batch.
        padding: Pad id and decoder start ids, as in `prompt_batch`.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        batch_size: int,
        padding: Padding,
    ) -> None:
        self._prompts, self._padding = prompts, padding
        lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
        self._order = _longest_first(lengths, batch_size)

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[tuple[ModelInputs, list[int]]]:
        for batch in self._order:
            indices = [int(index) for index in batch]
            prompts = [self._prompts[index] for index in indices]
            yield prompt_batch(prompts, self._padding), indices


def _longest_first(lengths: Indices, batch_size: int) -> list[Indices]:
    order = np.argsort(-lengths, kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def _text_lengths(encoded: EncodedSplit, padding: Padding) -> list[Indices]:
    """The lengths of each row's texts: prompt and target in one, or the encoder's text and the decoder's."""
    if padding.decoder_start_ids is None:
        return [encoded.lengths]
    sources = encoded.num_source_ids
    return [sources, encoded.lengths - sources + len(padding.decoder_start_ids)]


def _padding_share(texts: Sequence[Indices], batches: Sequence[Indices]) -> float:
    batches = [batch for batch in batches if len(batch)]
    positions = sum(len(batch) * batch_width(int(lengths[batch].max())) for lengths in texts for batch in batches)
    return 1.0 - int(sum(lengths[batch].sum() for lengths in texts for batch in batches)) / positions
