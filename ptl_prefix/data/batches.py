"""Encoded rows become batches, in an order that can be told from (seed, epoch) alone.

In: an `EncodedSplit`, or prompts. Out: `ModelInputs`. Rows of similar length share a batch, so that little of it is
padding. The training order draws from a generator of its own, never from the global one, and its exact position is its
state: a run that goes on in the middle of an epoch sees exactly the batches that it has not seen.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ptl_prefix.backbones.model_inputs import ModelInputs, Padding, prompt_batch
from ptl_prefix.data.collation import EncodedRow, batch_width, collate_training
from ptl_prefix.data.encoded_split import EncodedSplit
from ptl_prefix.data.rank_share import ALONE, Indices, RankShare

_POOL_BATCHES = 50
"""Batches whose rows are sorted by length together: enough for little padding, few enough that an epoch stays
shuffled."""


class TrainBatches:
    """Every row once an epoch, shuffled, in batches of similar length.

    One pass of `iter` yields what is left of the current epoch; the next pass starts the next epoch. A pass that is
    left early goes on where it stopped, so limits on the number of batches never show a row twice.

    The rows of an optimizer step are drawn at once, and only then divided among its batches, and each batch among the
    ranks: two ranks with batches of B, one rank with batches of 2B and one that takes two batches of B for a step see
    the same rows at every step. At the end of an epoch, where rows are few, a batch can be without any.

    Args:
        encoded: The rows.
        batch_size: Rows in a batch, of all ranks together.
        padding: Pad id and decoder start ids, as in `collate_training`.
        seed: With the epoch, decides the order.
        accumulation: Batches in an optimizer step.
        rank_share: Share of the rows of every batch that this process takes.

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
    ) -> None:
        if not len(encoded):
            raise ValueError("There must be rows to train on, but there are none.")
        self._encoded, self._padding, self._seed = encoded, padding, seed
        self._batch_size, self._accumulation, self._rank_share = batch_size, accumulation, rank_share
        self._epoch, self._num_handed_out = 0, 0

    def __len__(self) -> int:
        """Batches of one epoch, the same for each rank."""
        return num_batches(len(self._encoded), batch_size=self._batch_size, accumulation=self._accumulation)

    def __iter__(self) -> Iterator[ModelInputs]:
        if self._num_handed_out >= len(self):
            self._epoch, self._num_handed_out = self._epoch + 1, 0
        epoch, order = self._epoch, self.order(self._epoch)
        while self._epoch == epoch and self._num_handed_out < len(order):
            indices = order[self._num_handed_out]
            # Counted before it is handed out: whoever asks for the state while using a batch has it behind them.
            self._num_handed_out += 1
            yield collate_training(self._encoded.rows(indices), self._padding)

    def order(self, epoch: int) -> list[Indices]:
        """The rows of each of this rank's batches in an epoch: a pure function of the seed and the epoch."""
        starts = [number * self._batch_size for number in range(self._accumulation)]
        batches = [step[start : start + self._batch_size] for step in self._steps(epoch) for start in starts]
        return [self._rank_share.of_rows(batch) for batch in batches]

    def _steps(self, epoch: int) -> list[Indices]:
        """The rows of each optimizer step of an epoch."""
        per_step = self._batch_size * self._accumulation
        generator = np.random.Generator(np.random.PCG64([self._seed, epoch]))
        rows = generator.permutation(len(self._encoded))
        steps = []
        for start in range(0, len(rows), per_step * _POOL_BATCHES):
            pool = rows[start : start + per_step * _POOL_BATCHES]
            pool = pool[np.argsort(self._encoded.lengths[pool], kind="stable")]
            steps += [pool[first : first + per_step] for first in range(0, len(pool), per_step)]
        return [steps[place] for place in generator.permutation(len(steps))]

    def padding_share(self) -> float:
        """The share of padding among the positions of this rank's current epoch."""
        return _padding_share(_text_lengths(self._encoded, self._padding), self.order(self._epoch))

    def state_dict(self) -> dict[str, Any]:
        """The exact position: the epoch, how many of its batches were handed out, and what they are batches of."""
        return {"epoch": self._epoch, "num_handed_out": self._num_handed_out, "order_of": self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a position.

        Raises:
            ValueError: The position is one in another order: other rows, another seed or batch size.
        """
        if state["order_of"] != self._identity():
            raise ValueError(
                "A position is only good for the batches it was taken from, "
                f"but those were {state['order_of']} and these are {self._identity()}."
            )
        self._epoch, self._num_handed_out = state["epoch"], state["num_handed_out"]

    def _identity(self) -> dict[str, int]:
        return {
            "num_rows": len(self._encoded),
            "batch_size": self._batch_size,
            "accumulation": self._accumulation,
            "seed": self._seed,
        }


def num_batches(num_rows: int, *, batch_size: int, accumulation: int) -> int:
    """Batches of one epoch of `TrainBatches`: of whole steps, the last of which may have fewer rows."""
    return -(-num_rows // (batch_size * accumulation)) * accumulation


class EvalBatches:
    """Every row once, in a fixed order: the longest first, so that a batch too large for memory fails at once.

    Args:
        encoded: The rows.
        batch_size: Rows in a batch.
        padding: Pad id and decoder start ids, as in `collate_training`.
        num_rows: Only so many rows, evenly spread over the split; `None` means all.
        rank_share: Share of the batches that this process takes.
    """

    def __init__(
        self,
        encoded: EncodedSplit,
        *,
        batch_size: int,
        padding: Padding,
        num_rows: int | None = None,
        rank_share: RankShare = ALONE,
    ) -> None:
        self._encoded, self._padding = encoded, padding
        kept = len(encoded) if num_rows is None else min(num_rows, len(encoded))
        rows = np.arange(kept, dtype=np.int64) * len(encoded) // kept
        batches = [rows[batch] for batch in _longest_first(encoded.lengths[rows], batch_size)]
        self._order = rank_share.of_batches(batches)

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[ModelInputs]:
        for indices in self._order:
            yield collate_training(self._encoded.rows(indices), self._padding)

    def padding_share(self) -> float:
        """The share of padding among all positions."""
        return _padding_share(_text_lengths(self._encoded, self._padding), self._order)


def pair_batches(rows: Sequence[EncodedRow], *, batch_size: int, padding: Padding) -> Iterator[ModelInputs]:
    """Some pairs, each once, the longest first; arguments are those of `EvalBatches`."""
    lengths = np.array([len(row["input_ids"]) for row in rows], dtype=np.int64)
    for batch in _longest_first(lengths, batch_size):
        yield collate_training([rows[index] for index in batch], padding)


class PromptBatches:
    """Prompts for generation, each once, the longest first, with the index of each.

    Args:
        prompts: Ids of each prompt.
        batch_size: Prompts in a batch.
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
    """How long each row's texts are: one of prompt and target, or one that is read and one that is written."""
    if padding.decoder_start_ids is None:
        return [encoded.lengths]
    sources = encoded.num_source_ids
    return [sources, encoded.lengths - sources + len(padding.decoder_start_ids)]


def _padding_share(texts: Sequence[Indices], batches: Sequence[Indices]) -> float:
    batches = [batch for batch in batches if len(batch)]
    positions = sum(len(batch) * batch_width(int(lengths[batch].max())) for lengths in texts for batch in batches)
    return 1.0 - int(sum(lengths[batch].sum() for lengths in texts for batch in batches)) / positions
