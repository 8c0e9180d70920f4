"""Studies and trainings by the command line, on a random backbone in a temporary folder.

In: a shape, and overrides of a training. Out: a folder with the backbone, and the command lines that train on it.
"""

import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from ptl_prefix.backbones.source import EMBEDDED

_NAME = "random"
_NUMBERS = itertools.count()


@contextmanager
def random_gpt2(*, width: int, layers: int, heads: int) -> Iterator[Path]:
    """A temporary folder for the runs, with a random GPT-2 and the embedded tokenizer in a subfolder."""
    with tempfile.TemporaryDirectory(prefix="ptl-prefix-bench-") as scratch:
        folder = Path(scratch) / _NAME
        folder.mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).write_bytes((EMBEDDED / "tiny_gpt2" / name).read_bytes())
        vocabulary = len(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=vocabulary + 64,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            n_positions=256,
            bos_token_id=0,
            eos_token_id=0,
        )
        GPT2LMHeadModel(config).save_pretrained(folder)
        yield Path(scratch)


def short_training(folder: Path, *, num_train: int, num_validation: int, batch_size: int, steps: int) -> list[str]:
    """The overrides of a short training on the backbone of `random_gpt2`, with little evaluation after it."""
    return [
        "backbone=local",
        f"backbone.path={folder / _NAME}",
        f"backbone.name={_NAME}",
        "backbone.dtype=float32",
        "backbone.device=cpu",
        f"task.num_train={num_train}",
        f"task.num_validation={num_validation}",
        "task.num_test=4",
        f"data.batch_size={batch_size}",
        "generation.max_new_tokens=4",
        "evaluation.num_examples=2",
        f"trainer.max_steps={steps}",
        f"trainer.val_check_interval={steps}",
    ]


class TrainCommand:
    """`ptl-prefix train` in a process of its own, which starts at once.

    Args:
        words: Overrides, and `-m` for a study.
        cwd: Working directory.
        env: Environment; `None` is that of this process.
    """

    def __init__(self, words: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None) -> None:
        # A file takes what a pipe that nobody reads would not.
        self._errors = cwd / f"errors-{next(_NUMBERS)}.log"
        command = [sys.executable, "-m", "ptl_prefix", "train", *words]
        with self._errors.open("wb") as file:
            self.process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=file, env=env)

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    def wait(self) -> None:
        """Wait until it has ended.

        Raises:
            RuntimeError: It failed.
        """
        if code := self.process.wait():
            told = self._errors.read_text(encoding="utf-8", errors="replace")
            raise RuntimeError(f"A command must exit with code 0, but exited with {code}: {told}")
