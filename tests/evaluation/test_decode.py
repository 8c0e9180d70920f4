from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from support.no_task import NoTask
from support.tiny_runs import TinyRuns

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.data.rank_share import RankShare
from ptl_prefix.data.task import Split
from ptl_prefix.evaluation import decode as decoding_room
from ptl_prefix.evaluation.decode import DecodingJob, decode
from ptl_prefix.evaluation.evaluate import sample
from ptl_prefix.methods.method import Method
from ptl_prefix.methods.no_adaptation import NoAdaptation

SOURCES = [
    "name : The Eagle",
    "name : The Old Compass | kind : theatre | city : Athens | near : lake | owner : James Baker",
    "city : Rome",
    "name : The Silver Falcon | kind : pub | city : Lisbon | built : 1943",
    "kind : bar | city : Prague",
]
ROWS: list[Mapping[str, Any]] = [
    {
        "source": source,
        "targets": ["one", "two"],
        "example_id": f"test-{index}",
        "values": [source.split()[-1]],
        "group": "seen",
    }
    for index, source in enumerate(SOURCES)
]


class StreamedTask(NoTask):
    """A task whose split can only be read as a stream: `examples`, which holds all of it, is not implemented."""

    def __init__(self, count: int) -> None:
        self._count, self.num_readings = count, 0

    def rows_of(self, split: Split) -> Iterator[Mapping[str, Any]]:
        self.num_readings += 1
        return ({"example_id": index} for index in range(self._count))


class Written:
    """Decodes rows with the same attached method, a batch of a given size at a time."""

    def __init__(self, runs: TinyRuns, **changes: Any) -> None:
        self.plan, self.backbone = runs.attached(generation__max_new_tokens=12, **changes)
        self.prompter = Prompter(self.backbone.tokenizer, self.plan.task.prompt)

    def texts(self, rows: Sequence[Mapping[str, Any]], batch_size: int, method: Method | None = None) -> list[str]:
        return [output.hypothesis for output in self.outputs(rows, batch_size, method)]

    def outputs(
        self, rows: Sequence[Mapping[str, Any]], batch_size: int, method: Method | None = None, **among: Any
    ) -> list[Prediction]:
        job = DecodingJob(
            backbone=self.backbone,
            method=method or self.plan.method,
            prompter=self.prompter,
            rows=rows,
            decoding=self.plan.decoding,
            batch_size=batch_size,
            reserved_positions=self.plan.method.reserved_positions(self.backbone),
        )
        return decode(job, **among)


@pytest.fixture
def written(tiny_runs: TinyRuns) -> Written:
    return Written(tiny_runs)


@pytest.mark.parametrize("changes", [{}, {"generation__num_beams": 3}], ids=["greedy", "beams"])
def test_a_batch_writes_what_each_source_gets_alone(tiny_runs: TinyRuns, changes: dict[str, Any]) -> None:
    written = Written(tiny_runs, **changes)
    alone = [written.texts([row], batch_size=1)[0] for row in ROWS]
    assert len(set(alone)) >= 4, "texts must differ, or order shows nothing"

    assert written.texts(ROWS, batch_size=5) == alone
    assert written.texts(ROWS, batch_size=2) == alone


def test_outputs_come_in_the_order_of_the_rows_with_what_they_are_measured_against(written: Written) -> None:
    outputs = written.outputs(ROWS, batch_size=2)

    assert [output.source for output in outputs] == SOURCES
    assert [output.id for output in outputs] == [f"test-{index}" for index in range(5)]
    assert all(output.references == ("one", "two") for output in outputs)
    assert (outputs[0].values, outputs[0].group) == (("Eagle",), "seen")


def test_the_method_matters_and_the_bare_backbone_comes_back(written: Written) -> None:
    adapted = written.texts(ROWS, batch_size=5)
    bare = NoAdaptation().attach(written.backbone)

    assert written.texts(ROWS, batch_size=5, method=bare) != adapted
    assert written.texts(ROWS, batch_size=5) == adapted


def test_dropout_is_off_while_decoding_and_on_again_afterwards(tiny_runs: TinyRuns) -> None:
    written = Written(tiny_runs, method__prefix_dropout=0.9)
    written.plan.method.train()

    assert written.texts(ROWS, batch_size=5) == written.texts(ROWS, batch_size=5)
    assert written.plan.method.training


def test_a_prompt_leaves_positions_for_the_method_and_for_the_output(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = []
    usual = decoding_room.generate

    def generate(backbone: Backbone, inputs: Any, decoding: Decoding, stop_ids: Sequence[int]) -> list[list[int]]:
        lengths.append(inputs.input_ids.shape[1])
        return usual(backbone, inputs, decoding, stop_ids)

    monkeypatch.setattr(decoding_room, "generate", generate)

    written.texts([{**ROWS[0], "source": "word " * 500}], batch_size=1)

    # 160 positions, of which the prefix takes 3 and the text 12.
    assert lengths == [145]


def test_sampled_rows_are_the_same_in_every_run_and_spread_over_the_split() -> None:
    def sampled(number: int | None) -> list[int]:
        return [row["example_id"] for row in sample(StreamedTask(10), "test", number).rows]

    assert sampled(4) == [0, 2, 5, 7]
    assert sampled(1) == [0]
    assert sampled(10) == sampled(None) == sampled(99) == list(range(10))


def test_a_sample_reads_the_rows_as_a_stream_and_once_if_their_number_is_known() -> None:
    counted, known = StreamedTask(10), StreamedTask(10)

    assert sample(counted, "test", 4) == sample(known, "test", 4, num_in_split=10)
    assert sample(known, "test", None).num_in_split == sample(known, "test", 99).num_in_split == 10
    assert (counted.num_readings, known.num_readings) == (2, 4)


def test_no_row_is_sampled_twice() -> None:
    for count in range(1, 40):
        for number in range(1, count + 1):
            rows = sample(StreamedTask(count), "test", number).rows
            assert len({row["example_id"] for row in rows}) == number


@pytest.mark.parametrize("changes", [{}, {"generation__do_sample": True}], ids=["greedy", "sampled"])
def test_several_ranks_decode_the_same_as_one_rank(tiny_runs: TinyRuns, changes: dict[str, Any]) -> None:
    written = Written(tiny_runs, **changes)
    whole = written.outputs(ROWS, batch_size=2)
    parts: list[dict[int, str]] = []

    def keep(part: dict[int, str]) -> dict[int, str]:
        parts.append(part)
        return dict.fromkeys(range(5), "not yet") | {place: text for part in parts for place, text in part.items()}

    *_, together = [written.outputs(ROWS, 2, rank_share=RankShare(rank, 3), gather=keep) for rank in (2, 0, 1)]

    assert together == whole
    assert sorted(place for part in parts for place in part) == [0, 1, 2, 3, 4]
    assert all(parts), "each has decoded something"
