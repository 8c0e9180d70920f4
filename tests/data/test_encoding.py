"""Encoding: labels, truncation, and the cache of encoded splits."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.backbones.model_inputs import IGNORED_LABEL, Padding
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.data.batches import TrainBatches
from ptl_prefix.data.collation import collate_training
from ptl_prefix.data.encoded_split import EncodedSplit, EncodingReport
from ptl_prefix.data.encoding import cache_folder, encode_prompts, encode_split
from ptl_prefix.data.example import Example, to_dataset
from ptl_prefix.data.settings import DataSettings
from ptl_prefix.data.task import Split, Task, fingerprint_of
from ptl_prefix.data.tasks.text_pairs import TextPairs
from ptl_prefix.errors import DataError
from ptl_prefix.settings import defaults_of

PADDING = Padding(1)

EXAMPLES = (
    Example("name : The Mill | kind : pub", ("The Mill is a pub.", "There is a pub called The Mill."), "0"),
    Example("name : Blue Café | kind : bar", ("Blue Café is a bar.",), "1"),
)


class ListedTask(Task):
    """A task whose examples are listed, the same in every split; counts how often they are read."""

    name, version, licence, metrics = "listed", "1", "", ("exact_match",)

    def __init__(self, examples: Sequence[Example] = EXAMPLES, prompt: PromptFormat | None = None) -> None:
        self.listed, self.num_reads = tuple(examples), 0
        self.prompt = PromptFormat(between=" ##") if prompt is None else prompt

    def problems(self) -> list[str]:
        return []

    def examples(self, split: Split) -> datasets.Dataset:
        self.num_reads += 1
        return to_dataset(self.listed)

    def fingerprint(self, split: Split) -> str:
        return fingerprint_of(split, self.listed)


@pytest.fixture
def encode(prompter: Prompter, tmp_path: Path) -> Any:
    """Encode a split into this test's own cache."""

    def encoded(task: Task, max_tokens: int | None = None, split: Split = "train", **changes: Any) -> EncodedSplit:
        batching = DataSettings(cache_dir=str(tmp_path / "cache"), **changes)
        return encode_split(task, split, prompter, max_tokens=max_tokens, settings=batching)

    return encoded


@dataclass(frozen=True)
class _Room:
    """What the position budget was called in the keys of caches that users have."""

    num_positions: int
    taken: int


def test_entries_of_earlier_versions_are_found_again(prompter: Prompter, tmp_path: Path) -> None:
    task, settings = ListedTask(), DataSettings(cache_dir=str(tmp_path / "cache"))

    encode_split(task, "train", prompter, max_tokens=60, reserved_positions=4, settings=settings)

    limits = (_Room(num_positions=60, taken=4), settings.max_target_tokens, settings.overlong)
    (entry,) = entries(tmp_path)
    assert entry.name == fingerprint_of(1, task.fingerprint("train"), prompter.fingerprint, limits)


def entries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "encoded").iterdir())


def test_every_pair_becomes_a_row_of_prompt_target_and_end(encode: Any, prompter: Prompter) -> None:
    encoded = encode(ListedTask())

    pairs = [(index, example.source, target) for index, example in enumerate(EXAMPLES) for target in example.targets]
    expected = [
        (index, prompter.encode_source(source), prompter.encode_target(target)) for index, source, target in pairs
    ]
    rows = encoded.rows(range(len(encoded)))
    assert [(row["example"], row["input_ids"]) for row in rows] == [
        (i, source + target) for i, source, target in expected
    ]
    assert [row["num_source_ids"] for row in rows] == [len(source) for _, source, _ in expected]
    assert encoded.lengths.tolist() == [len(source + target) for _, source, target in expected]
    assert encoded.num_target_ids == sum(len(target) for _, _, target in expected)
    assert encoded.report == EncodingReport(num_examples=2, num_pairs=3)


def test_unmasked_labels_decode_to_the_target(encode: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    encoded = encode(ListedTask())

    labels = collate_training(encoded.rows([0, 1, 2]), padding=PADDING).labels
    assert labels is not None

    texts = [tokenizer.decode(row[row != IGNORED_LABEL]) for row in labels]
    assert texts == [f" {target}<|endoftext|>" for example in EXAMPLES for target in example.targets]


def test_an_over_long_source_is_cut_before_the_target(encode: Any, prompter: Prompter) -> None:
    source = prompter.tokenize_sources([EXAMPLES[1].source])[0]
    target = prompter.encode_target(EXAMPLES[1].targets[0])
    room = len(source) + prompter.num_fixed_tokens + len(target)

    encoded = encode(ListedTask(EXAMPLES[1:]), max_tokens=room - 3)

    assert encoded.rows([0])[0]["input_ids"] == prompter.prompt_ids(source[:-3]) + target
    assert encoded.report == EncodingReport(num_examples=1, num_pairs=1, num_truncated_source=1)


def test_a_target_is_cut_only_when_no_source_is_left_and_keeps_its_end(encode: Any, prompter: Prompter) -> None:
    target = prompter.tokenize_targets([EXAMPLES[1].targets[0]])[0]

    encoded = encode(ListedTask(EXAMPLES[1:]), max_tokens=prompter.num_fixed_tokens + len(target))

    assert encoded.rows([0])[0]["input_ids"] == prompter.prompt_ids([]) + target[:-1] + prompter.after_ids
    assert encoded.report == EncodingReport(num_examples=1, num_pairs=1, num_truncated_source=1, num_truncated_target=1)


def test_the_longest_target_counts_its_end(encode: Any, prompter: Prompter) -> None:
    target = prompter.tokenize_targets([EXAMPLES[1].targets[0]])[0]

    encoded = encode(ListedTask(EXAMPLES[1:]), max_target_tokens=3)

    assert encoded.rows([0])[0]["input_ids"][-3:] == target[:2] + prompter.after_ids
    assert encoded.report.num_truncated_target == 1
    assert encoded.report.num_truncated_source == 0


def test_a_source_may_use_the_positions_that_a_cut_target_leaves(encode: Any, prompter: Prompter) -> None:
    source = prompter.tokenize_sources([EXAMPLES[1].source])[0]
    room = len(source) + prompter.num_fixed_tokens + 3

    encoded = encode(ListedTask(EXAMPLES[1:]), max_tokens=room, max_target_tokens=3)

    assert encoded.lengths.tolist() == [room]
    assert encoded.report == EncodingReport(num_examples=1, num_pairs=1, num_truncated_target=1)


def test_chunks_join_without_a_seam(encode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encode(ListedTask())
    monkeypatch.setattr("ptl_prefix.data.encoding._CHUNK_EXAMPLES", 1)

    in_chunks = encode(ListedTask(), split="validation")

    assert in_chunks.rows([0, 1, 2]) == whole.rows([0, 1, 2])
    assert in_chunks.report == whole.report


def test_pairs_that_do_not_fit_are_dropped_with_overlong_drop(encode: Any, prompter: Prompter) -> None:
    limit = len(prompter.encode_source(EXAMPLES[0].source) + prompter.encode_target(EXAMPLES[0].targets[0]))

    encoded = encode(ListedTask(EXAMPLES[:1]), max_tokens=limit, overlong="drop")

    assert encoded.lengths.tolist() == [limit]
    assert encoded.report == EncodingReport(num_examples=1, num_pairs=2, num_dropped=1)


def test_nothing_is_cut_that_fits_exactly(encode: Any, prompter: Prompter) -> None:
    limit = len(prompter.encode_source(EXAMPLES[1].source) + prompter.encode_target(EXAMPLES[1].targets[0]))

    encoded = encode(ListedTask(EXAMPLES[1:]), max_tokens=limit)

    assert encoded.report == EncodingReport(num_examples=1, num_pairs=1)


def test_the_formats_limit_on_sources_is_counted_too(
    encode: Any, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    task = ListedTask(prompt=PromptFormat(max_source_tokens=4, truncation="left"))
    prompter = Prompter(tokenizer, task.prompt)
    batching = DataSettings(cache_dir=str(tmp_path))

    encoded = encode_split(task, "train", prompter, max_tokens=None, settings=batching)

    kept = prompter.tokenize_sources([EXAMPLES[0].source])[0][-4:]
    assert encoded.rows([0])[0]["input_ids"][:4] == kept
    assert encoded.report.num_truncated_source == 3


def test_a_source_that_may_not_be_cut_is_refused_by_its_id(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    task = ListedTask(prompt=PromptFormat(max_source_tokens=4, truncation="none"))
    batching = DataSettings(cache_dir=str(tmp_path))

    with pytest.raises(DataError, match=r"Example 0: A source must have at most 4 tokens here, but has \d+"):
        encode_split(task, "train", Prompter(tokenizer, task.prompt), max_tokens=None, settings=batching)
    assert list((tmp_path / "encoded").iterdir()) == []


lengths = st.integers(1, 30)


@given(st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_fits_and_ends(prompter: Prompter, encode: Any, data: st.DataObject) -> None:
    num_source, num_target = data.draw(lengths), data.draw(lengths)
    max_tokens, max_target = data.draw(st.integers(6, 40)), data.draw(st.none() | st.integers(2, 12))
    example = Example("a " * num_source, ("b " * num_target,), "0")

    encoded = encode(ListedTask([example]), max_tokens=max_tokens, max_target_tokens=max_target)

    ids, num_prompt = (row := encoded.rows([0])[0])["input_ids"], row["num_source_ids"]
    assert len(ids) <= max_tokens
    assert ids[num_prompt - len(prompter.between_ids) : num_prompt] == prompter.between_ids
    assert ids[-1] == prompter.after_ids[-1]
    assert max_target is None or len(ids) - num_prompt <= max_target
    whole = len(prompter.encode_source(example.source)) + len(prompter.encode_target(example.targets[0]))
    assert (len(ids) < whole) == bool(encoded.report.num_truncated_source + encoded.report.num_truncated_target)


def test_a_split_is_encoded_once(encode: Any) -> None:
    task = ListedTask()

    first, second = encode(task), encode(task)

    assert task.num_reads == 1
    assert second.rows([0, 1, 2]) == first.rows([0, 1, 2])
    assert second.report == first.report


@pytest.mark.parametrize(
    "change", [{"max_tokens": 20}, {"max_target_tokens": 5}, {"overlong": "drop"}, {"split": "validation"}]
)
def test_whatever_decides_ids_decides_the_entry(encode: Any, tmp_path: Path, change: dict[str, Any]) -> None:
    encode(ListedTask(), max_tokens=200)

    encode(ListedTask(), **{"max_tokens": 200, **change})

    assert len(entries(tmp_path)) == 2


def test_the_format_and_the_data_decide_the_entry(
    encode: Any, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    encode(ListedTask())
    encode(ListedTask(EXAMPLES[:1]))
    batching = DataSettings(cache_dir=str(tmp_path / "cache"))

    encode_split(ListedTask(), "train", Prompter(tokenizer, PromptFormat()), max_tokens=None, settings=batching)

    assert len(entries(tmp_path)) == 3


@pytest.mark.parametrize("batching", [{"batch_size": 3}, {"eval_batch_size": 5}])
def test_the_size_of_batches_does_not(encode: Any, tmp_path: Path, batching: dict[str, int]) -> None:
    encode(ListedTask())

    encode(ListedTask(), **batching)

    assert len(entries(tmp_path)) == 1


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def change_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [truncate, change_a_byte, remove])
@pytest.mark.parametrize("file", ["rows.arrow", "report.json"])
def test_a_damaged_entry_is_rebuilt(encode: Any, tmp_path: Path, damage: Any, file: str) -> None:
    task = ListedTask()
    expected = encode(task).rows([0, 1, 2])
    damage(entries(tmp_path)[0] / file)

    rebuilt = encode(task)

    assert rebuilt.rows([0, 1, 2]) == expected
    assert rebuilt.report == EncodingReport(num_examples=2, num_pairs=3)
    assert encode(task).rows([0, 1, 2]) == expected
    assert len(entries(tmp_path)) == 1


def test_progress_counts_examples_and_the_share_of_the_file_that_was_read(tmp_path: Path, prompter: Prompter) -> None:
    (tmp_path / "train.jsonl").write_text('{"source": "a", "target": "b"}\n' * 2500)
    task = TextPairs(**{**defaults_of("task/text_pairs"), "train_file": str(tmp_path / "train.jsonl")})
    settings = DataSettings(cache_dir=str(tmp_path / "cache"))
    seen: list[tuple[int, float | None]] = []

    for _ in range(2):
        encode_split(
            task, "train", prompter, max_tokens=60, settings=settings, on_progress=lambda *call: seen.append(call)
        )

    # The second time nothing is encoded. A file is read a block ahead of its lines.
    assert [count for count, _ in seen] == [1000, 1000, 500]
    assert [share for _, share in seen] == [pytest.approx(0.4, abs=0.1), pytest.approx(0.8, abs=0.1), 1.0]


def test_a_split_of_unknown_ids_is_refused(tmp_path: Path) -> None:
    words = ("[PAD]", "[UNK]", "</s>", "a", "name", ":", ",")
    rules = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    rules.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    named: Any = {"pad_token": "[PAD]", "unk_token": "[UNK]", "eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=rules, **named)
    prompter = Prompter(tokenizer, PromptFormat(between=" :"))

    def encoded(*pairs: tuple[str, str]) -> int:
        task = ListedTask([Example(source, (target,), str(index)) for index, (source, target) in enumerate(pairs)])
        settings = DataSettings(cache_dir=str(tmp_path / "cache"))
        return len(encode_split(task, "train", prompter, max_tokens=60, settings=settings))

    known, foreign = ("name : a", "a name"), "上海 , 北京 , 你好"

    assert encoded(known, (foreign, "a"), ("a a", foreign)) == 3, "some foreign texts are no reason"
    # The known comma is no text that a model could learn from.
    with pytest.raises(DataError, match=r"The sources of the train split of listed must .* all of their ids, spaces"):
        encoded((foreign, "a"), (foreign, "name"))
    with pytest.raises(DataError, match=r"The targets of the train split .* 93\.8% of their ids, .* its unknown token"):
        encoded(*[("a", foreign)] * 10, ("a", "name a"))
    assert len(entries(tmp_path)) == 1, "a refused split is not in the cache"


def test_two_threads_that_encode_at_once_leave_one_whole_entry(encode: Any, tmp_path: Path) -> None:
    both_are_encoding = threading.Barrier(2)

    class SlowTask(ListedTask):
        def examples(self, split: Split) -> datasets.Dataset:
            both_are_encoding.wait(timeout=60)
            return super().examples(split)

    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(encode(SlowTask()).rows([0, 1, 2]))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(results) == 2
    assert results[0] == results[1]
    assert [sorted(file.name for file in entry.iterdir()) for entry in entries(tmp_path)] == [
        ["report.json", "rows.arrow"]
    ]


def test_the_cache_is_in_the_users_cache_folder_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder(None) == tmp_path / ".cache" / "ptl_prefix"

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder(None) == tmp_path / "xdg" / "ptl_prefix"
    assert cache_folder("~/mine") == tmp_path / "mine"


def test_a_cache_that_cannot_be_written_is_named(encode: Any, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file is in the way")

    with pytest.raises(DataError, match=r"cache of encoded splits.*cache/encoded.*`data.cache_dir`"):
        encode(ListedTask())


def test_rows_are_read_from_the_disk_not_from_memory(encode: Any) -> None:
    encode(ListedTask())
    before = pa.total_allocated_bytes()

    stored = encode(ListedTask())

    assert stored.table.get_total_buffer_size() > 0
    assert pa.total_allocated_bytes() == before, "the table's buffers are the mapped file"


def test_a_split_of_which_nothing_is_left_is_refused(encode: Any) -> None:
    with pytest.raises(DataError, match="must have examples, but has none"):
        encode(ListedTask([]))
    with pytest.raises(DataError, match="must have a pair that fits, but all 3 are over-long"):
        encode(ListedTask(), max_tokens=8, overlong="drop")


def test_a_budget_too_small_for_a_prompt_and_a_target_is_refused(encode: Any, prompter: Prompter) -> None:
    least = prompter.num_fixed_tokens + 2
    assert len(encode(ListedTask(), max_tokens=least)) == 3

    with pytest.raises(ValueError, match=f"need at least {least} positions, but {least - 1} are left"):
        encode(ListedTask(), max_tokens=least - 1)


def test_over_long_prompts_lose_part_of_the_source(prompter: Prompter) -> None:
    sources = [example.source for example in EXAMPLES]

    whole = encode_prompts(sources, prompter, max_prompt_tokens=None)
    cut = encode_prompts(sources, prompter, max_prompt_tokens=8)

    assert whole == [prompter.encode_source(source) for source in sources]
    assert cut == [prompter.encode_source(source, 8 - prompter.num_fixed_tokens) for source in sources]
    assert {len(prompt) for prompt in cut} == {8}
    with pytest.raises(ValueError, match="must have room for its 2 fixed tokens, but may have only 1"):
        encode_prompts(sources, prompter, max_prompt_tokens=1)


def test_a_prompt_for_generation_is_the_one_that_was_trained(encode: Any, prompter: Prompter) -> None:
    encoded = encode(ListedTask(), max_tokens=100)

    prompts = encode_prompts([example.source for example in EXAMPLES], prompter, max_prompt_tokens=50)

    for row in encoded.rows(range(len(encoded))):
        assert row["input_ids"][: row["num_source_ids"]] == prompts[row["example"]]


def test_batches_come_from_an_encoded_split(encode: Any) -> None:
    batches = list(TrainBatches(encode(ListedTask()), batch_size=2, padding=PADDING, seed=0))

    assert sum(batch.num_rows for batch in batches) == 3


@pytest.mark.parametrize("max_tokens", [4, 6, 9, None])
def test_source_and_target_of_an_encoder_decoder_have_separate_budgets(
    tokenizer: PreTrainedTokenizerBase, max_tokens: int | None, tmp_path: Path
) -> None:
    prompter = Prompter(tokenizer, PromptFormat(), decoder_start_id=5)
    batching = DataSettings(cache_dir=str(tmp_path / "cache"))

    encoded = encode_split(ListedTask(), "train", prompter, max_tokens=max_tokens, settings=batching)

    limit = 1000 if max_tokens is None else max_tokens
    sources, targets = zip(
        *((example.source, target) for example in EXAMPLES for target in example.targets), strict=True
    )
    for row, source, target in zip(encoded.rows(range(3)), sources, targets, strict=True):
        read, written = row["input_ids"][: row["num_source_ids"]], row["input_ids"][row["num_source_ids"] :]
        assert read == prompter.encode_source(source)[:limit]
        # Its start takes a position too, and its end is kept.
        assert written == [*prompter.tokenize_targets([target])[0][: limit - 2], *prompter.after_ids]
    with pytest.raises(ValueError, match="need at least 3 positions, but 2 are left"):
        encode_split(ListedTask(), "train", prompter, max_tokens=2, settings=batching)
