"""Encoded rows become batches, in an order that can be told from (seed, epoch) alone.

In: an `EncodedSplit`, or prompts. Out: `ModelInputs`. Rows of similar length share a batch, so that little of it is
padding. The training order draws from a generator of its own, never from the global one, and its exact position is its
state: a run that goes on in the middle of an epoch sees exactly the batches that it has not seen.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from annotated_types import Ge

from ptl_prefix.backbones.model_inputs import ModelInputs, prompt_batch
from ptl_prefix.data.collation import EncodedRow, batch_width, collate_training
from ptl_prefix.data.encoded_split import EncodedSplit
from ptl_prefix.settings import settings_from

_POOL_BATCHES = 50
"""Batches whose rows are sorted by length together: enough for little padding, few enough that an epoch stays
shuffled."""

Indices = npt.NDArray[np.int64]


class BatchSettings:
    """How examples become batches.

    Args:
        batch_size: Rows in a training batch, on each device.
        eval_batch_size: Rows in a batch of validation or generation.
        max_target_tokens: Longest target, its end included; `None` means whatever the backbone has room for.
        overlong: `truncate` cuts the source, then the target; `drop` leaves the pair out. Both are counted.
        cache_dir: Where encoded splits are kept; `None` means `ptl_prefix` in the user's cache folder.
    """

    @settings_from("data/batches")
    def __init__(
        self,
        *,
        batch_size: Annotated[int, Ge(1)],
        eval_batch_size: Annotated[int, Ge(1)],
        max_target_tokens: Annotated[int, Ge(2)] | None,
        overlong: Literal["truncate", "drop"],
        cache_dir: str | None,
    ) -> None:
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.max_target_tokens = max_target_tokens
        self.overlong = overlong
        self.cache_dir = cache_dir


class TrainBatches:
    """Every row once an epoch, shuffled, in batches of similar length.

    One pass of `iter` yields what is left of the current epoch; the next pass starts the next epoch. A pass that is
    left early goes on where it stopped, so limits on the number of batches never show a row twice.

    With several ranks, batches of `batch_size * world_size` rows are built first and each rank takes its share of every
    one: two ranks with batches of B see at each step the rows that one rank with batches of 2B sees. (Except where the
    last batch of an epoch would have fewer rows than there are ranks: its rows then join the batch before.)

    Args:
        encoded: The rows.
        batch_size: Rows in a batch of one rank.
        pad_id: The id that fills rows up; masked, so any id would do.
        decoder_start_ids: As in `collate_training`.
        seed: With the epoch, decides the order.
        rank: Which share of every batch this process takes.
        world_size: How many processes share.

    Raises:
        ValueError: There are fewer rows than ranks, or none.
    """

    def __init__(
        self,
        encoded: EncodedSplit,
        *,
        batch_size: int,
        pad_id: int,
        decoder_start_ids: Sequence[int] | None = None,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if len(encoded) < world_size:
            raise ValueError(f"Every rank needs a row to train on, but there are {len(encoded)} for {world_size}.")
        self._encoded, self._pad_id, self._seed = encoded, pad_id, seed
        self._decoder_start_ids = decoder_start_ids
        self._rank, self._world_size = rank, world_size
        self._batch_size = batch_size
        self._epoch, self._num_handed_out = 0, 0

    def __len__(self) -> int:
        """Batches of one epoch, for each rank."""
        per_batch = self._batch_size * self._world_size
        whole, rest = divmod(len(self._encoded), per_batch)
        return whole + (rest >= self._world_size)

    def __iter__(self) -> Iterator[ModelInputs]:
        if self._num_handed_out >= len(self):
            self._epoch, self._num_handed_out = self._epoch + 1, 0
        epoch, order = self._epoch, self.order(self._epoch)
        while self._epoch == epoch and self._num_handed_out < len(order):
            indices = order[self._num_handed_out]
            # Counted before it is handed out: whoever asks for the state while using a batch has it behind them.
            self._num_handed_out += 1
            yield collate_training(self._encoded.rows(indices), self._pad_id, self._decoder_start_ids)

    def order(self, epoch: int) -> list[Indices]:
        """The rows of each of this rank's batches in an epoch: a pure function of the seed and the epoch."""
        return [batch[self._rank :: self._world_size] for batch in self._shared_order(epoch)]

    def _shared_order(self, epoch: int) -> list[Indices]:
        per_batch = self._batch_size * self._world_size
        generator = np.random.Generator(np.random.PCG64([self._seed, epoch]))
        rows = generator.permutation(len(self._encoded))
        batches = []
        for start in range(0, len(rows), per_batch * _POOL_BATCHES):
            pool = rows[start : start + per_batch * _POOL_BATCHES]
            pool = pool[np.argsort(self._encoded.lengths[pool], kind="stable")]
            batches += [pool[first : first + per_batch] for first in range(0, len(pool), per_batch)]
        if len(batches) > 1 and len(batches[-1]) < self._world_size:
            batches[-2:] = [np.concatenate(batches[-2:])]
        return [batches[place] for place in generator.permutation(len(batches))]

    def padding_share(self) -> float:
        """The share of padding among the positions of this rank's current epoch."""
        return _padding_share(_text_lengths(self._encoded, self._decoder_start_ids), self.order(self._epoch))

    def state_dict(self) -> dict[str, Any]:
        """The exact position: the epoch, how many of its batches were handed out, and what they are batches of."""
        return {"epoch": self._epoch, "num_handed_out": self._num_handed_out, "order_of": self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a position.

        Raises:
            ValueError: The position is one in another order: other rows, seed, batch size or number of ranks.
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
            "seed": self._seed,
            "world_size": self._world_size,
        }


class EvalBatches:
    """Every row once, in a fixed order: the longest first, so that a batch too large for memory fails at once.

    Args:
        encoded: The rows.
        batch_size: Rows in a batch.
        pad_id: The id that fills rows up; masked, so any id would do.
        decoder_start_ids: As in `collate_training`.
        num_rows: Only so many rows, evenly spread over the split; `None` means all.
    """

    def __init__(
        self,
        encoded: EncodedSplit,
        *,
        batch_size: int,
        pad_id: int,
        decoder_start_ids: Sequence[int] | None = None,
        num_rows: int | None = None,
    ) -> None:
        self._encoded, self._pad_id, self._decoder_start_ids = encoded, pad_id, decoder_start_ids
        kept = len(encoded) if num_rows is None else min(num_rows, len(encoded))
        rows = np.arange(kept, dtype=np.int64) * len(encoded) // kept
        self._order = [rows[batch] for batch in _longest_first(encoded.lengths[rows], batch_size)]

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[ModelInputs]:
        for indices in self._order:
            yield collate_training(self._encoded.rows(indices), self._pad_id, self._decoder_start_ids)

    def padding_share(self) -> float:
        """The share of padding among all positions."""
        return _padding_share(_text_lengths(self._encoded, self._decoder_start_ids), self._order)


def pair_batches(
    rows: Sequence[EncodedRow], *, batch_size: int, pad_id: int, decoder_start_ids: Sequence[int] | None = None
) -> Iterator[ModelInputs]:
    """Some pairs, each once, the longest first; arguments are those of `EvalBatches`."""
    lengths = np.array([len(row["input_ids"]) for row in rows], dtype=np.int64)
    for batch in _longest_first(lengths, batch_size):
        yield collate_training([rows[index] for index in batch], pad_id, decoder_start_ids)


class PromptBatches:
    """Prompts for generation, each once, the longest first, with the index of each.

    Args:
        prompts: Ids of each prompt.
        batch_size: Prompts in a batch.
        pad_id: The id that fills prompts up; masked, so any id would do.
        decoder_start_ids: As in `prompt_batch`.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        batch_size: int,
        pad_id: int,
        decoder_start_ids: Sequence[int] | None = None,
    ) -> None:
        self._prompts, self._pad_id, self._decoder_start_ids = prompts, pad_id, decoder_start_ids
        lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
        self._order = _longest_first(lengths, batch_size)

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[tuple[ModelInputs, list[int]]]:
        for batch in self._order:
            indices = [int(index) for index in batch]
            prompts = [self._prompts[index] for index in indices]
            yield prompt_batch(prompts, self._pad_id, self._decoder_start_ids), indices


def _longest_first(lengths: Indices, batch_size: int) -> list[Indices]:
    order = np.argsort(-lengths, kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def _text_lengths(encoded: EncodedSplit, decoder_start_ids: Sequence[int] | None) -> list[Indices]:
    """How long each row's texts are: one of prompt and target, or one that is read and one that is written."""
    if decoder_start_ids is None:
        return [encoded.lengths]
    sources = encoded.num_source_ids
    return [sources, encoded.lengths - sources + len(decoder_start_ids)]


def _padding_share(texts: Sequence[Indices], batches: Sequence[Indices]) -> float:
    positions = sum(len(batch) * batch_width(int(lengths[batch].max())) for lengths in texts for batch in batches)
    return 1.0 - int(sum(lengths[batch].sum() for lengths in texts for batch in batches)) / positions
