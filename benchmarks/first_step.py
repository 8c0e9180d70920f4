"""Trains to the end of the first optimizer step, prints what the process has used until then, and exits.

    python -m benchmarks.first_step train     # `ptl-prefix train`
    python -m benchmarks.first_step script    # the same by hand: torch, Lightning and transformers alone

In: a contender. Out: a line of JSON on standard output: CPU seconds of the process since its start, and the names of
the libraries that it has imported. Both train a prompt of the embedded GPT-2 on the CPU, and first measure the bare
backbone's loss on the same number of rows. `benchmarks.cold_start` compares them.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

NUM_TRAIN, NUM_VALIDATION, BATCH_SIZE, PROMPT_LENGTH = 64, 8, 8, 10
_SETTINGS = (
    f"task.num_train={NUM_TRAIN}",
    f"task.num_validation={NUM_VALIDATION}",
    "task.num_test=2",
    f"data.batch_size={BATCH_SIZE}",
    "method=prompt_tuning",
    f"method.prompt_length={PROMPT_LENGTH}",
    "backbone.device=cpu",
    "evaluation.compare_bare=false",
    "evaluation.retention=false",  # the script measures no loss on text that is not the task's
    "tracking=none",
    "trainer.max_steps=2",
)


def report_and_exit(*_: Any) -> None:
    """End the process after its first step: what would follow is not measured."""
    libraries = sorted({name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names))
    print(json.dumps({"cpu_s": time.process_time(), "libraries": libraries}), flush=True)
    os._exit(0)


def train() -> None:
    """Train as a user does."""
    from ptl_prefix.commands.main import main

    sys.argv = ["ptl-prefix", "train", *_SETTINGS]
    main()


def script() -> None:
    """Train as a script of one's own does."""
    import pytorch_lightning as pl
    import torch
    from torch import Tensor, nn
    from transformers import AutoTokenizer, GPT2LMHeadModel

    folder = Path(__file__).parents[1] / "ptl_prefix/backbones/embedded/tiny_gpt2"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).requires_grad_(False)
    texts = [f"name : The Eagle | food : French | near : the river {number}" for number in range(NUM_TRAIN)]
    ids = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right").input_ids
    with torch.no_grad():
        model(input_ids=ids[:NUM_VALIDATION], labels=ids[:NUM_VALIDATION])

    class Prompt(pl.LightningModule):
        """A prompt before the rows of a batch."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.prompt = nn.Parameter(torch.randn(1, PROMPT_LENGTH, model.config.n_embd))

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            embedded = model.get_input_embeddings()(batch)
            inputs = torch.cat([self.prompt.expand(len(batch), -1, -1), embedded], dim=1)
            logits = self.model(inputs_embeds=inputs).logits[:, PROMPT_LENGTH:-1]
            return nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW([self.prompt], lr=0.01)

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    loader = torch.utils.data.DataLoader(ids, batch_size=BATCH_SIZE)
    pl.Trainer(max_steps=2, accelerator="cpu", **quiet).fit(Prompt(), loader)  # type: ignore[arg-type]


def main() -> None:
    """Run one contender."""
    contender = {"train": train, "script": script}[sys.argv[1]]
    from torch.optim.optimizer import register_optimizer_step_post_hook

    register_optimizer_step_post_hook(report_and_exit)
    contender()


if __name__ == "__main__":
    main()
