from itertools import islice

import pytest
from support.tiny_runs import TinyRuns

from ptl_prefix.backbones.model_inputs import Padding
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.data.batches import TrainBatches
from ptl_prefix.data.encoding import encode_split
from ptl_prefix.training.batch_stream import BatchStream

PADDING = Padding(1)


@pytest.fixture
def batches(tiny_runs: TinyRuns) -> TrainBatches:
    """Ten batches an epoch."""
    return new_batches(tiny_runs)


def new_batches(tiny_runs: TinyRuns) -> TrainBatches:
    plan = tiny_runs.plan()
    prompter = Prompter(plan.backbone.load_shape().tokenizer, plan.task.prompt)
    encoded = encode_split(plan.task, "train", prompter, max_tokens=None, settings=plan.data)
    return TrainBatches(encoded, batch_size=4, padding=PADDING, seed=3)


def ids(stream: BatchStream, number: int) -> list[list[list[int]]]:
    return [batch.input_ids.tolist() for batch in islice(iter(stream), number)]


def test_its_length_is_that_of_the_run(batches: TrainBatches) -> None:
    assert len(batches) == 10
    assert len(BatchStream(batches, 25)) == 25


def test_epochs_follow_one_another_each_in_an_order_of_its_own(tiny_runs: TinyRuns, batches: TrainBatches) -> None:
    by_epoch = [
        [batch.input_ids.tolist() for batch in new_batches_at] for new_batches_at in (batches, batches, batches)
    ]

    run = ids(BatchStream(new_batches(tiny_runs), 25), 25)

    assert run == [*by_epoch[0], *by_epoch[1], *by_epoch[2][:5]]
    assert by_epoch[0] != by_epoch[1]


@pytest.mark.parametrize("seen", [1, 9, 10, 13, 20])
def test_it_goes_on_after_the_last_batch_that_was_handed_out(tiny_runs: TinyRuns, seen: int) -> None:
    whole = ids(BatchStream(new_batches(tiny_runs), 25), 25)
    first = BatchStream(new_batches(tiny_runs), 25)
    ids(first, seen)
    resumed = BatchStream(new_batches(tiny_runs), 25)

    resumed.load_state_dict(first.state_dict())

    assert ids(resumed, 25 - seen) == whole[seen:]
