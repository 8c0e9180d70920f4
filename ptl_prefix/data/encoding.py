"""A task's examples become ids, once.

In: a task, one of its splits and a `Prompter`. Out: an `EncodedSplit`, read from the cache when nothing that decides
its ids has changed since it was written, and the prompts of a split for generation.

The rule for what is over-long, where `max_tokens` less what is `taken` is the room for prompt and target together, or,
in an encoder-decoder, for the prompt alone, and `max_tokens` that for the target:

1. a target has at most `max_target_tokens` ids, its end included; a source at most the format's `max_source_tokens`;
2. where the two are still too long, the source gives way first, at the end that the format's `truncation`
names; 3. only when no source is left is the target cut. Its end is always kept.

With `overlong: drop` a pair that would be cut is left out instead. Everything cut or left out is counted.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.data.collation import EncodedRow
from ptl_prefix.data.encoded_split import EncodedSplit, EncodingReport, read_encoded, write_encoded
from ptl_prefix.data.settings import DataSettings
from ptl_prefix.data.task import Split, Task, fingerprint_of
from ptl_prefix.errors import DataError

_VERSION = 1
"""Part of every entry's fingerprint: raise it when the rule or the layout changes."""
_CHUNK_EXAMPLES = 1000


@dataclass(frozen=True)
class _Room:
    """Positions for text: `num_positions`, of which a method takes some from what is read."""

    num_positions: int
    taken: int

    def shared(self, num_target: int, prompter: Prompter) -> tuple[int, int]:
        """What they leave for a source's own ids, and for a target's: together, or each its own."""
        for_prompt = self.num_positions - self.taken - prompter.num_fixed_tokens
        num_end = len(prompter.after_ids)
        if prompter.decoder_start_ids is not None:
            return for_prompt, self.num_positions - len(prompter.decoder_start_ids) - num_end
        for_target = for_prompt - num_end
        return for_target - min(num_target, for_target), for_target


def encode_split(
    task: Task, split: Split, prompter: Prompter, *, max_tokens: int | None, taken: int = 0, settings: DataSettings
) -> EncodedSplit:
    """The rows of a split, one per (source, target) pair.

    Args:
        task: Whose examples.
        split: Which of them.
        prompter: Turns text into ids.
        max_tokens: Positions for prompt and target together, or for each in an encoder-decoder; `None`: no limit.
        taken: Of those of what is read, how many the method takes.
        settings: The longest target, what to do with what is over-long, where to keep the result.

    Raises:
        DataError: The data cannot be read, nothing of the split can be used, or the result cannot be kept.
        ValueError: There is no room for any target.
    """
    room = None if max_tokens is None else _Room(max_tokens, taken)
    _check_room(prompter, room)
    limits = (room, settings.max_target_tokens, settings.overlong)
    key = fingerprint_of(_VERSION, task.fingerprint(split), prompter.fingerprint, limits)
    folder = cache_folder(settings.cache_dir) / "encoded" / key
    if (encoded := read_encoded(folder)) is None:
        try:
            encoded = write_encoded(folder, _chunks(task, split, prompter, room, settings))
        except OSError as error:
            raise DataError(
                f"Encoded splits are kept in {folder.parent}, but it cannot be written ({error}); "
                "give another folder as `data.cache_dir`."
            ) from error
    if not len(encoded):
        raise DataError(_nothing_left(task, split, encoded.report))
    return encoded


def encode_pairs(
    rows: Sequence[Mapping[str, Any]], prompter: Prompter, *, max_tokens: int | None, taken: int = 0
) -> list[tuple[EncodedRow, str]]:
    """Every (source, target) pair of some examples that fits uncut, beside its target's text.

    Args:
        rows: Examples, as a task gives them.
        prompter: Turns text into ids.
        max_tokens: As in `encode_split`.
        taken: As in `encode_split`.
    """
    room = None if max_tokens is None else _Room(max_tokens, taken)
    settings = DataSettings(overlong="drop", max_target_tokens=None)
    pairs = []
    for index, row in enumerate(rows):
        for target in row["targets"]:
            columns = {"source": [row["source"]], "targets": [[target]], "example_id": [row["example_id"]]}
            encoded, _ = _encode_chunk(columns, index, prompter, room, settings)
            pairs += [(pair, target) for pair in encoded]
    return pairs


def encode_prompts(sources: Sequence[str], prompter: Prompter, *, max_prompt_tokens: int | None) -> list[list[int]]:
    """The prompts of sources, for generation.

    Args:
        sources: Rendered sources, in order.
        prompter: Turns text into ids.
        max_prompt_tokens: Longest prompt, see `Backbone.position_budget`; a longer one loses part of its source.
            `None`: no limit.
    """
    room = None if max_prompt_tokens is None else max_prompt_tokens - prompter.num_fixed_tokens
    if room is not None and room < 0:
        raise ValueError(
            f"A prompt must have room for its {prompter.num_fixed_tokens} fixed tokens, but may have only "
            f"{max_prompt_tokens}; generate fewer tokens, or shorten the prefix."
        )
    return [prompter.prompt_ids(prompter.cut_source(ids, room)) for ids in prompter.tokenize_sources(sources)]


def cache_folder(cache_dir: str | None) -> Path:
    """Where encoded splits are kept: as told, or `ptl_prefix` in the user's cache folder."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ptl_prefix"


def _check_room(prompter: Prompter, room: _Room | None) -> None:
    if room is None:
        return
    source_room, target_room = room.shared(1, prompter)
    if source_room < 0 or target_room < 1:
        left = room.num_positions - room.taken
        least = left - min(source_room, target_room - 1)
        raise ValueError(
            f"A prompt and its target need at least {least} positions, but {left} are left; shorten the prefix."
        )


def _nothing_left(task: Task, split: Split, report: EncodingReport) -> str:
    if report.num_dropped:
        return (
            f"The {split} split of {task.name} must have a pair that fits, but all {report.num_dropped} are over-long "
            "and `data.overlong` is 'drop'; let it be 'truncate', or shorten the prefix."
        )
    return f"The {split} split of {task.name} must have examples, but has none; look at its files."


def _chunks(
    task: Task, split: Split, prompter: Prompter, room: _Room | None, settings: DataSettings
) -> Iterator[tuple[list[EncodedRow], EncodingReport]]:
    """The rows of each thousand examples, with what was done to them."""
    examples = task.examples(split)
    for start in range(0, len(examples), _CHUNK_EXAMPLES):
        columns = examples[start : start + _CHUNK_EXAMPLES]
        yield _encode_chunk(columns, start, prompter, room, settings)


def _encode_chunk(
    columns: dict[str, list[Any]], start: int, prompter: Prompter, room: _Room | None, settings: DataSettings
) -> tuple[list[EncodedRow], EncodingReport]:
    sources = prompter.tokenize_sources(columns["source"])
    owners = [index for index, targets in enumerate(columns["targets"]) for _ in targets]
    targets = prompter.tokenize_targets([target for targets in columns["targets"] for target in targets])
    rows: list[EncodedRow] = []
    report = EncodingReport(num_examples=len(sources), num_pairs=len(targets))
    for owner, target in zip(owners, targets, strict=True):
        source = sources[owner]
        source_room, target_room = _rooms(len(source), len(target), prompter, room, settings)
        source_cut, target_cut = len(source) > source_room, len(target) > target_room
        if (source_cut or target_cut) and settings.overlong == "drop":
            report += EncodingReport(num_dropped=1)
            continue
        try:
            prompt = prompter.prompt_ids(prompter.cut_source(source, source_room))
        except ValueError as error:
            raise DataError(
                f"Example {columns['example_id'][owner]}: {error} Or drop it with `data.overlong=drop`."
            ) from error
        row_ids = prompt + target[:target_room] + prompter.after_ids
        rows.append(EncodedRow(input_ids=row_ids, num_source_ids=len(prompt), example=start + owner))
        report += EncodingReport(num_truncated_source=int(source_cut), num_truncated_target=int(target_cut))
    return rows, report


def _rooms(
    num_source: int, num_target: int, prompter: Prompter, room: _Room | None, settings: DataSettings
) -> tuple[int, int]:
    """How many ids of its own a source may keep, and a target; see the rule at the top."""
    num_end = len(prompter.after_ids)
    source_room = _least(num_source, prompter.prompt_format.max_source_tokens)
    target_room = _least(
        num_target, None if settings.max_target_tokens is None else settings.max_target_tokens - num_end
    )
    if room is not None:
        rooms = room.shared(target_room, prompter)
        source_room, target_room = _least(source_room, rooms[0]), _least(target_room, rooms[1])
    return source_room, target_room


def _least(number: int, limit: int | None) -> int:
    return number if limit is None else max(min(number, limit), 0)
