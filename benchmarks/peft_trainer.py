"""Compares an epoch of E2E here with one of PEFT in the Hugging Face Trainer.

    python -m benchmarks.peft_trainer --data $PTL_PREFIX_DATA/data
    python -m benchmarks.peft_trainer --data $PTL_PREFIX_DATA/data --inputs 100 --rounds 3 --only prefix

In: a shape with random weights, and a sample of E2E's training split: some distinct inputs, each with all of its
references. Out: for each method the seconds of an epoch of the sample, with loading, padding and the training loop:

- PEFT in the Trainer with its defaults: batches in a random order;
- PEFT in the Trainer with its best settings for speed: batches grouped by length (the optimizer is fused in both);
- ours in Lightning with defaults, and with `data.share_sources`.

All contenders have the same tokens, the same number of pairs in a batch (with shared sources on average), gradients
clipped to a norm of 1, and as many trainable parameters as their counterparts. Each round runs all of them in a random
order; a ratio is the median of the rounds, with quartiles. What is built before the first step is not timed.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
from peft import PeftConfig
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

from benchmarks import training_sections
from benchmarks.peft_configs import lora_config, prefix_config, prompt_config
from benchmarks.peft_prefix import wrapped
from benchmarks.report import finish
from benchmarks.rounds import Ratio, add_limit, in_rounds, paired_ratio
from benchmarks.shapes import SHAPES, dtype_for, random_backbone
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import IGNORED_LABEL, Padding
from ptl_prefix.data.batches import PLAIN, RowLayout, TrainBatches
from ptl_prefix.data.encoded_split import EncodedSplit
from ptl_prefix.data.encoding import encode_split
from ptl_prefix.data.settings import DataSettings
from ptl_prefix.data.tasks.e2e_nlg import E2ENLG
from ptl_prefix.methods.lora import LoRA
from ptl_prefix.methods.method import Method
from ptl_prefix.methods.prefix_tuning import PrefixTuning
from ptl_prefix.methods.prompt_tuning import PromptTuning
from ptl_prefix.training.batch_stream import BatchStream
from ptl_prefix.training.lightning_warnings import quiet_lightning
from ptl_prefix.training.module import AdaptationModule
from ptl_prefix.training.optimization import Optimization

DEFAULTS, BEST = "PEFT, Trainer's defaults", "PEFT, Trainer's best settings"
OURS, SHARED = "ours", "ours, shared sources"
_CLIP_NORM, _LR = 1.0, 1e-3
_WARMUP_STEPS = 2


@dataclass(frozen=True)
class Pair:
    """A method here, and the same in PEFT.

    Args:
        label: Name in the table.
        ours: Creates ours for a backbone.
        peft: Creates PEFT's config for a backbone.
    """

    label: str
    ours: Callable[[Backbone], Method]
    peft: Callable[[Backbone], PeftConfig]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One contender.

    Args:
        method: Label of the method.
        contender: One of the four contenders.
        num_trained: Number of trainable parameters.
        seconds: Seconds of the epoch in each round.
        over_defaults: Ratio to PEFT with the Trainer's defaults.
        over_best: Ratio to PEFT with the Trainer's best settings.
    """

    method: str
    contender: str
    num_trained: int
    seconds: list[float]
    over_defaults: Ratio
    over_best: Ratio


def pairs(arguments: argparse.Namespace) -> dict[str, Pair]:
    """The methods that both sides have, by their names for `--only`."""
    length, hidden, rank = arguments.prefix_length, arguments.reparam_hidden_size, arguments.rank

    def prefix(reparam: str, backbone: Backbone) -> Method:
        # The embedding is as wide as PEFT's.
        width = backbone.geometry["decoder_self"].kv_width
        settings = {"reparam_hidden_size": hidden, "reparam_embedding_size": width}
        return PrefixTuning(prefix_length=length, reparam=reparam, **settings)

    return {
        "prefix": Pair("prefix", partial(prefix, "none"), lambda _: prefix_config(prefix_length=length)),
        "projection": Pair(
            "prefix with projection",
            partial(prefix, "mlp"),
            lambda _: prefix_config(prefix_length=length, hidden_size=hidden),
        ),
        "prompt": Pair(
            "prompt",
            lambda _: PromptTuning(prompt_length=length, init="random"),
            lambda _: prompt_config(prompt_length=length),
        ),
        "lora": Pair(
            "LoRA",
            lambda _: LoRA(rank=rank, dropout=0.0),
            lambda backbone: lora_config(backbone, rank=rank),
        ),
    }


@dataclass(frozen=True)
class Epochs:
    """Epochs of a sample, on one shape.

    Args:
        sample: Encoded sample.
        shape: A key of `SHAPES`.
        dtype: Dtype of the backbone.
        batch_size: Pairs of a batch.
    """

    sample: EncodedSplit
    shape: str
    dtype: str
    batch_size: int

    def backbone(self) -> Backbone:
        """A backbone; all share one copy of the weights."""
        return random_backbone(self.shape, device="cpu", dtype=self.dtype)

    def ours_s(self, make: Callable[[Backbone], Method], layout: RowLayout, *, max_steps: int | None = None) -> float:
        """Seconds of an epoch in Lightning."""
        backbone = self.backbone()
        method = make(backbone).attach(backbone)
        padding = Padding(backbone.pad_id)
        batches = TrainBatches(self.sample, batch_size=self.batch_size, padding=padding, seed=0, layout=layout)
        num_steps = max_steps or len(batches)
        module = AdaptationModule(backbone, method, Optimization(lr=_LR), total_steps=num_steps)
        with tempfile.TemporaryDirectory() as folder, quiet_lightning():
            warnings.filterwarnings("ignore", "You defined a `validation_step` but have no")  # nothing is validated
            trainer = pl.Trainer(
                max_steps=num_steps,
                accelerator="cpu",
                gradient_clip_val=_CLIP_NORM,
                default_root_dir=folder,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
            )
            began = time.perf_counter()
            trainer.fit(module, train_dataloaders=BatchStream(batches, num_steps))
            return time.perf_counter() - began

    def peft_s(self, make: Callable[[Backbone], PeftConfig], *, grouped: bool, max_steps: int | None = None) -> float:
        """Seconds of an epoch in the Hugging Face Trainer."""
        backbone = self.backbone()
        tokenizer = backbone.tokenizer
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        with tempfile.TemporaryDirectory() as folder:
            settings = TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=self.batch_size,
                num_train_epochs=1,
                max_steps=max_steps or -1,
                learning_rate=_LR,
                max_grad_norm=_CLIP_NORM,
                optim="adamw_torch_fused",
                train_sampling_strategy="group_by_length" if grouped else "random",
                save_strategy="no",
                report_to="none",
                use_cpu=True,
                disable_tqdm=True,
                seed=0,
            )
            trainer = Trainer(
                model=wrapped(backbone.model, make(backbone)),
                args=settings,
                train_dataset=_labelled(self.sample),
                data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED_LABEL),
            )
            began = time.perf_counter()
            trainer.train()
            return time.perf_counter() - began

    def num_trained(self, pair: Pair) -> int:
        """The number of trainable parameters.

        Raises:
            RuntimeError: Ours and PEFT's differ.
        """
        backbone, other = self.backbone(), self.backbone()
        ours = pair.ours(backbone).attach(backbone).num_trainable
        model = wrapped(other.model, pair.peft(other))
        theirs = sum(one.numel() for one in model.parameters() if one.requires_grad)
        if ours != theirs:
            raise RuntimeError(
                f"Both sides must train as many parameters, but of '{pair.label}' ours trains {ours:,} and PEFT's "
                f"{theirs:,}."
            )
        return ours


def _labelled(sample: EncodedSplit) -> list[dict[str, list[int]]]:
    """The rows as the Trainer's collator reads them."""
    rows = []
    for row in sample.rows(range(len(sample))):
        ids, num_source = list(row["input_ids"]), row["num_source_ids"]
        labels = [IGNORED_LABEL] * num_source + ids[num_source:]
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
    return rows


def contenders(pair: Pair, epochs: Epochs) -> dict[str, Callable[..., float]]:
    """The turns of one method."""
    return {
        DEFAULTS: partial(epochs.peft_s, pair.peft, grouped=False),
        BEST: partial(epochs.peft_s, pair.peft, grouped=True),
        OURS: partial(epochs.ours_s, pair.ours, PLAIN),
        SHARED: partial(epochs.ours_s, pair.ours, RowLayout(share_sources=True)),
    }


def measure(chosen: Mapping[str, Pair], epochs: Epochs, arguments: argparse.Namespace) -> list[Measurement]:
    """Measure all contenders of the chosen methods, in the same rounds."""
    num_trained = {name: epochs.num_trained(pair) for name, pair in chosen.items()}
    turns = {
        (name, contender): turn for name, pair in chosen.items() for contender, turn in contenders(pair, epochs).items()
    }
    for turn in turns.values():
        turn(max_steps=_WARMUP_STEPS)
    times = in_rounds(turns, rounds=arguments.rounds, limit_s=arguments.limit_s)
    return [
        Measurement(
            method=chosen[name].label,
            contender=contender,
            num_trained=num_trained[name],
            seconds=seconds,
            over_defaults=paired_ratio(seconds, times[name, DEFAULTS]),
            over_best=paired_ratio(seconds, times[name, BEST]),
        )
        for (name, contender), seconds in times.items()
    ]


def load_sample(data: Path, num_inputs: int, backbone: Backbone) -> EncodedSplit:
    """Some distinct inputs of E2E's training split, with all of their references."""
    task = E2ENLG(data_dir=str(data / "e2e"), num_train_examples=num_inputs)
    prompter = backbone.prompter(task.prompt)
    return encode_split(task, "train", prompter, max_tokens=backbone.max_positions, settings=DataSettings())


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with e2e")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="gpt2")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--inputs", type=int, default=20, help="distinct inputs; E2E has 8.6 pairs of each")
    parser.add_argument("--batch-size", type=int, default=10)
    parser.add_argument("--prefix-length", type=int, default=10)
    parser.add_argument("--reparam-hidden-size", type=int, default=512, help="hidden size of the MLP, here and in PEFT")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--only", nargs="+", choices=("prefix", "projection", "prompt", "lora"), help="default: all")
    parser.add_argument("--rounds", type=int, default=2)
    add_limit(parser)
    parser.add_argument("--json", type=Path, default=Path("outputs/benchmarks/peft_trainer.json"))
    arguments = parser.parse_args(words)
    dtype = dtype_for(arguments.dtype)
    sample = load_sample(arguments.data, arguments.inputs, random_backbone(arguments.shape, device="cpu", dtype=dtype))
    known = pairs(arguments)
    chosen = {name: known[name] for name in arguments.only or known}
    epochs = Epochs(sample, arguments.shape, dtype, arguments.batch_size)
    found = measure(chosen, epochs, arguments)
    num_examples = len(set(sample.examples.tolist()))
    about = {"shape": arguments.shape, "dtype": dtype, "batch_size": arguments.batch_size}
    size = {"num_pairs": len(sample), "num_inputs": num_examples}
    values = {**about, **size, "measurements": [asdict(one) for one in found]}
    finish(arguments.json, values, training_sections.peft_trainer)


if __name__ == "__main__":
    main()
