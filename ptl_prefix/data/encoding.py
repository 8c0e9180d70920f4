"""Encoding of a task's examples into token ids, done once and cached.

In: a task, one of its splits and a `Prompter`. Out: an `EncodedSplit`, read from the cache unless the data, the
tokenizer, the prompt format or a limit has changed since it was written; and the prompts of a split for generation.

Over-long pairs follow three rules. The position budget is `max_tokens` less `reserved_positions`: for prompt and target
together in a decoder-only backbone, for the prompt alone in an encoder-decoder, where the target has `max_tokens`.

1. A target has at most `max_target_tokens` ids, its end included; a source at most the format's `max_source_tokens`.
2. If both do not fit the budget together, the source is cut first, at the end that the format's `truncation` names.
3. The target is cut only when nothing is left of the source. Its end is always kept.

A conversation is cut by its messages, not by its ids; see `backbones/chat_prompting.py`. With `overlong: drop`, a pair
that would be cut is left out instead; so is a pair whose target would be cut, if the task's targets must
stay whole. Cut and dropped pairs are counted.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptl_prefix.artifacts.user_cache import user_cache_folder
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.data.collation import EncodedRow
from ptl_prefix.data.encoded_split import EncodedSplit, EncodingReport, read_encoded, write_encoded
from ptl_prefix.data.settings import DataSettings
from ptl_prefix.data.task import Split, Task, fingerprint_of
from ptl_prefix.data.unknown_ids import UnknownIds
from ptl_prefix.errors import DataError

_VERSION = 1
"""Part of every cache key: raise it when the rules or the layout change."""
_CHUNK_EXAMPLES = 1000

OnProgress = Callable[[int, float | None], None]
"""Called with the number of examples that were encoded since the last call, and the task's `share_read`."""


@dataclass(frozen=True)
class _PositionBudget:
    """The positions that a text may use.

    Args:
        num_positions: Positions of the backbone.
        reserved: Positions of these that the method uses.
    """

    num_positions: int
    reserved: int

    def __repr__(self) -> str:
        # Part of the keys of caches that users have: another spelling would encode every split again.
        return f"_Room(num_positions={self.num_positions}, taken={self.reserved})"

    def split(self, num_target: int, prompter: Prompter) -> tuple[int, int]:
        """The most ids for a source beside a target of `num_target` ids, and the most ids for a target."""
        for_prompt = self.num_positions - self.reserved - prompter.num_fixed_tokens
        num_end = len(prompter.after_ids)
        if prompter.decoder_start_ids is not None:
            return for_prompt, self.num_positions - len(prompter.decoder_start_ids) - num_end
        for_target = for_prompt - num_end
        return for_target - min(num_target, for_target), for_target


def encode_split(
    task: Task,
    split: Split,
    prompter: Prompter,
    *,
    max_tokens: int | None,
    reserved_positions: int = 0,
    settings: DataSettings,
    on_progress: OnProgress = lambda num_examples, share_read: None,
) -> EncodedSplit:
    """Encode a split into rows, one per (source, target) pair, or read them from the cache.

    Args:
        task: Task of the examples.
        split: Split of the examples.
        prompter: Encoder of sources and targets.
        max_tokens: Positions for prompt and target together, or for each in an encoder-decoder; `None`: no limit.
        reserved_positions: Positions of the prompt's text that the method uses.
        settings: Longest target, handling of over-long pairs, and cache folder.
        on_progress: Callback for progress; it is not called for a split that is read from the cache.

    Raises:
        DataError: The data cannot be read, no pair of the split can be used, the tokenizer knows next to nothing of
            its sources or targets, or the cache cannot be written.
        ValueError: The position budget leaves no token for a target.
    """
    budget = _budget(max_tokens, reserved_positions)
    _check_budget(prompter, budget)
    limits = (budget, settings.max_target_tokens, settings.overlong)
    key = fingerprint_of(_VERSION, task.fingerprint(split), prompter.fingerprint, limits)
    folder = cache_folder(settings.cache_dir) / "encoded" / key
    if (encoded := read_encoded(folder)) is None:
        try:
            encoded = write_encoded(folder, _chunks(task, split, prompter, budget, settings, on_progress))
        except OSError as error:
            raise DataError(
                f"The cache of encoded splits, {folder.parent}, must be writable, but is not ({error}); "
                "set `data.cache_dir` to another folder."
            ) from error
    if not len(encoded):
        raise DataError(_nothing_left(task, split, encoded.report))
    return encoded.taught_by(task.teacher(split))


def encode_pairs(
    rows: Sequence[Mapping[str, Any]], prompter: Prompter, *, max_tokens: int | None, reserved_positions: int = 0
) -> list[tuple[EncodedRow, str]]:
    """Encode every (source, target) pair that fits uncut; each is returned with the text of its target.

    Args:
        rows: Examples, as a task gives them.
        prompter: Encoder of sources and targets.
        max_tokens: Positions for prompt and target, as in `encode_split`.
        reserved_positions: Positions that the method uses, as in `encode_split`.
    """
    budget = _budget(max_tokens, reserved_positions)
    settings = DataSettings(overlong="drop", max_target_tokens=None)
    pairs = []
    for index, row in enumerate(rows):
        for target in row["targets"]:
            columns = {"source": [row["source"]], "targets": [[target]], "example_id": [row["example_id"]]}
            encoded, _ = _encode_chunk(columns, index, prompter, budget, settings, UnknownIds(prompter), False)
            pairs += [(pair, target) for pair in encoded]
    return pairs


def encode_prompts(sources: Sequence[str], prompter: Prompter, *, max_prompt_tokens: int | None) -> list[list[int]]:
    """Encode sources into prompts for generation.

    Args:
        sources: Rendered sources, in order.
        prompter: Encoder of the sources.
        max_prompt_tokens: Length limit of a prompt, whose source is cut to fit; `None`: no limit.
    """
    max_source = None if max_prompt_tokens is None else max_prompt_tokens - prompter.num_fixed_tokens
    if max_source is not None and max_source < 0:
        raise ValueError(
            f"A prompt must have room for its {prompter.num_fixed_tokens} fixed tokens, but may have only "
            f"{max_prompt_tokens}; generate fewer tokens, or shorten the prefix."
        )
    tokenized = prompter.tokenize_sources(sources)
    pairs = zip(sources, tokenized, strict=True)
    return [prompter.prompt_ids(prompter.cut_source(source, ids, max_source)) for source, ids in pairs]


def cache_folder(cache_dir: str | None) -> Path:
    """The folder for encoded splits: `cache_dir`, or `ptl_prefix` in the user's cache folder for `None`."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    return user_cache_folder()


def _budget(max_tokens: int | None, reserved: int) -> _PositionBudget | None:
    return None if max_tokens is None else _PositionBudget(max_tokens, reserved)


def _check_budget(prompter: Prompter, budget: _PositionBudget | None) -> None:
    if budget is None:
        return
    max_source, max_target = budget.split(1, prompter)
    if max_source < 0 or max_target < 1:
        left = budget.num_positions - budget.reserved
        least = left - min(max_source, max_target - 1)
        raise ValueError(
            f"A prompt and its target need at least {least} positions, but {left} are left; shorten the prefix."
        )


def _nothing_left(task: Task, split: Split, report: EncodingReport) -> str:
    if report.num_dropped:
        return (
            f"The {split} split of {task.name} must have a pair that fits, but all {report.num_dropped} are over-long "
            + (
                "and a teacher's answers are not cut; raise `data.max_target_tokens`, or shorten the prefix."
                if task.keeps_targets_whole
                else "and `data.overlong` is 'drop'; set it to 'truncate', or shorten the prefix."
            )
        )
    return f"The {split} split of {task.name} must have examples, but has none; check its files."


def _chunks(
    task: Task,
    split: Split,
    prompter: Prompter,
    budget: _PositionBudget | None,
    settings: DataSettings,
    on_progress: OnProgress,
) -> Iterator[tuple[list[EncodedRow], EncodingReport]]:
    """The rows of each thousand examples, with a report on them; only these are in memory."""
    rows, start, unknown = task.rows_of(split), 0, UnknownIds(prompter)
    while chunk := list(itertools.islice(rows, _CHUNK_EXAMPLES)):
        columns = {name: [row[name] for row in chunk] for name in ("source", "targets", "example_id")}
        yield _encode_chunk(columns, start, prompter, budget, settings, unknown, task.keeps_targets_whole)
        start += len(chunk)
        on_progress(len(chunk), task.share_read)
    if (problem := unknown.problem(split, task.name)) is not None:
        raise DataError(problem)


def _encode_chunk(
    columns: dict[str, list[Any]],
    start: int,
    prompter: Prompter,
    budget: _PositionBudget | None,
    settings: DataSettings,
    unknown: UnknownIds,
    keeps_targets_whole: bool,
) -> tuple[list[EncodedRow], EncodingReport]:
    sources = prompter.tokenize_sources(columns["source"])
    owners = [index for index, targets in enumerate(columns["targets"]) for _ in targets]
    targets = prompter.tokenize_targets([target for targets in columns["targets"] for target in targets])
    unknown.add(sources, targets)
    rows: list[EncodedRow] = []
    report = EncodingReport(num_examples=len(sources), num_pairs=len(targets))
    for owner, target in zip(owners, targets, strict=True):
        source = sources[owner]
        num_whole = prompter.num_source_tokens(source)
        num_source, num_target = _kept_ids(num_whole, len(target), prompter, budget, settings)
        source_cut, target_cut = num_whole > num_source, len(target) > num_target
        if ((source_cut or target_cut) and settings.overlong == "drop") or (target_cut and keeps_targets_whole):
            report += EncodingReport(num_dropped=1)
            continue
        try:
            prompt = prompter.prompt_ids(prompter.cut_source(columns["source"][owner], source, num_source))
        except ValueError as error:
            raise DataError(
                f"Example {columns['example_id'][owner]}: {error} Or drop it with `data.overlong=drop`."
            ) from error
        row_ids = prompt + target[:num_target] + prompter.after_ids
        rows.append(EncodedRow(input_ids=row_ids, num_source_ids=len(prompt), example=start + owner))
        report += EncodingReport(num_truncated_source=int(source_cut), num_truncated_target=int(target_cut))
    return rows, report


def _kept_ids(
    num_source: int, num_target: int, prompter: Prompter, budget: _PositionBudget | None, settings: DataSettings
) -> tuple[int, int]:
    """The number of ids that a source and a target keep, by the rules at the top of this file."""
    num_end = len(prompter.after_ids)
    num_source = _least(num_source, prompter.prompt_format.max_source_tokens)
    num_target = _least(
        num_target, None if settings.max_target_tokens is None else settings.max_target_tokens - num_end
    )
    if budget is not None:
        max_source, max_target = budget.split(num_target, prompter)
        num_source, num_target = _least(num_source, max_source), _least(num_target, max_target)
    return num_source, num_target


def _least(number: int, limit: int | None) -> int:
    return number if limit is None else max(min(number, limit), 0)
