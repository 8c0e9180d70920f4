"""Fixtures of tests/data."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

import ptl_prefix.backbones
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.backbones.choose_prompter import choose_prompter
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.data.task import SPLITS, Task

GOLDEN = Path(__file__).parents[1] / "golden" / "data"


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    """The embedded backbone's."""
    folder = Path(ptl_prefix.backbones.__path__[0]) / "embedded" / "tiny_gpt2"
    return cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(folder))


@pytest.fixture
def prompter(tokenizer: PreTrainedTokenizerBase) -> Prompter:
    """With the separator of the built-in task."""
    return Prompter(tokenizer, PromptFormat(between=" ##"))


@pytest.fixture
def check_golden(tokenizer: PreTrainedTokenizerBase) -> Callable[[Task], None]:
    """Compare a task's first pairs, as the embedded backbone reads them, with `tests/golden/data/<name>.txt`."""

    def check(task: Task) -> None:
        prompter = choose_prompter(tokenizer, task.prompt, decoder_start_id=None, num_ids=None, of="tiny_gpt2")
        lines = []
        for split in SPLITS:
            for row in list(task.examples(split))[:4]:
                prompt = prompter.encode_source(row["source"])
                lines += [f"[{row['example_id']}] {'; '.join(row['values'])}".rstrip()]
                lines += [str(tokenizer.decode(prompt + prompter.encode_target(target))) for target in row["targets"]]
        first = prompter.encode_source(task.examples("train")[0]["source"])
        assert "\n".join([*lines, f"ids of the first prompt: {first}", ""]) == (GOLDEN / f"{task.name}.txt").read_text(
            encoding="utf-8"
        )

    return check
