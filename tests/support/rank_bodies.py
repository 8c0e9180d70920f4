"""Bodies of ranks in tests, which another process can import.

In: the `Ranks` of the process, and the test's arguments. Out: the values that the test checks.
"""

import gc
import os
import random
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from support.step_peaks import measured_peak
from support.tiny_runs import TinyRuns
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.backbones.attention_sites import layers_of
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.label_likelihood import most_likely_labels
from ptl_prefix.backbones.model_inputs import Padding, prompt_batch
from ptl_prefix.backbones.observation import text_for_every_site
from ptl_prefix.commands.config.build_plan import build_plan
from ptl_prefix.training.module import AdaptationModule
from ptl_prefix.training.ranks import Ranks
from ptl_prefix.training.run_inputs import load_run_inputs
from ptl_prefix.training.train import train


def collective_results(ranks: Ranks) -> dict[str, Any]:
    rank = ranks.share.rank
    tensor = torch.full((2,), float(rank))
    ranks.broadcast([tensor])
    return {
        "sum": ranks.sum(rank, 0.5),
        "max": ranks.max(rank),
        "gather": ranks.gather({"rank": rank}),
        "from_rank_zero": ranks.from_rank_zero(lambda: f"said by {rank}"),
        "merge": ranks.merge({rank: f"by {rank}"}),
        "copied": tensor.tolist(),
    }


def summed_gradients(ranks: Ranks, gradients: Sequence[Sequence[float | None]]) -> list[list[float] | None]:
    """Each rank has one gradient, or none, for each parameter."""
    parameters = [nn.Parameter(torch.zeros(2)) for _ in gradients[0]]
    for parameter, value in zip(parameters, gradients[ranks.share.rank], strict=True):
        parameter.grad = None if value is None else torch.full((2,), value)
    ranks.sum_gradients(parameters)
    return [None if parameter.grad is None else parameter.grad.tolist() for parameter in parameters]


def require_same_config(ranks: Ranks, configs: Sequence[Mapping[str, Any]]) -> str:
    try:
        ranks.require_same_config(configs[ranks.share.rank])
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "agreed"


def in_turn(ranks: Ranks, folder: Path) -> bool:
    """Whether this rank found the file that rank 0 writes."""
    with ranks.rank_zero_first():
        was_there = (folder / "left").exists()
        (folder / "left").touch()
    return was_there


def lost_rank(ranks: Ranks) -> None:
    """The last rank exits at once; the others wait for it."""
    if ranks.share.rank == ranks.num_ranks - 1:
        os._exit(3)
    ranks.sum(1.0)


def trained(
    ranks: Ranks, tiny: TinyRuns, folder: Path, changes: Mapping[str, Any], resume: bool = False
) -> dict[str, Any]:
    """Train; the outcome as this rank sees it."""
    plan = build_plan(tiny.config(**changes))
    outcome = train(plan, RunFolder(folder), resume=resume, ranks=ranks)
    return {
        "metrics": outcome.record.metrics,
        "outputs": [output.hypothesis for output in outcome.adapted],
        "signal": outcome.signal,
        "steps": outcome.record.cost.steps,
        "state": {name: tensor.detach().clone() for name, tensor in plan.method.trainable_parameters().items()},
        "drawn": (random.random(), float(torch.rand(()))),
    }


def trained_with_failure(
    ranks: Ranks, tiny: TinyRuns, folder: Path, changes: Mapping[str, Any], rank: int, step: int, failure: str
) -> dict[str, Any]:
    """A run in which one rank fails at a step."""
    usual = AdaptationModule.training_step

    def hit(module: AdaptationModule, batch: Any, batch_idx: int) -> Tensor:
        if ranks.share.rank == rank and module.global_step == step:
            if failure == "error":
                raise ZeroDivisionError("an failure")
            if failure == "overflow":
                loss = usual(module, batch, batch_idx)
                loss.register_hook(lambda gradient: gradient * float("inf"))
                return loss
            os.kill(os.getpid(), signal.Signals[failure])
        return usual(module, batch, batch_idx)

    AdaptationModule.training_step = hit  # type: ignore[method-assign]
    return trained(ranks, tiny, folder, changes)


def sharded_backbone(ranks: Ranks, tiny: TinyRuns, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Bytes of a sharded backbone on this rank, at rest, in the first layer and later, and its logits."""
    plan = build_plan(tiny.config(**changes))
    before = _live_bytes()
    backbone = load_run_inputs(plan, ranks).backbone
    at_rest = backbone.num_local_bytes, _live_bytes() - before
    batch = text_for_every_site(backbone, torch.arange(12).view(2, 6))
    inside: list[int] = []
    first = layers_of(backbone.model, backbone.config)[0]
    hook = first.register_forward_pre_hook(lambda *_: inside.append(backbone.num_local_bytes))
    with torch.no_grad():
        # As lists, which are no tensors to be counted.
        logits = backbone.logits(batch).tolist()
        later = backbone.num_local_bytes, _live_bytes() - before
        embedded = backbone.embed(batch.input_ids).tolist()
        likelihoods = label_likelihoods(backbone)
    hook.remove()
    # As a trainer moves a model from device to device.
    backbone.model._apply(lambda tensor: tensor.clone())
    with torch.no_grad():
        moved = backbone.logits(batch).tolist()
    return {
        "bytes": backbone.num_bytes,
        "at_rest": at_rest,
        "inside": inside[0],
        "later": later,
        "logits": logits,
        "embedded": embedded,
        "likelihoods": likelihoods,
        "moved": moved,
    }


def peak_of_a_step(ranks: Ranks, tiny: TinyRuns, changes: Mapping[str, Any]) -> int:
    """Peak memory of this rank in a step, its share of the backbone included."""
    plan = build_plan(tiny.config(**changes))
    backbone = load_run_inputs(plan, ranks).backbone
    return backbone.num_local_bytes + measured_peak(plan, backbone, ranks)


def label_likelihoods(backbone: Backbone) -> list[list[float]]:
    """The most likely of three labels after two prompts, and its likelihood."""
    start = None if backbone.decoder_start_id is None else [backbone.decoder_start_id]
    prompts = prompt_batch([[5, 6, 7], [8, 9]], Padding(backbone.pad_id, start))
    return [list(label) for label in most_likely_labels(backbone, prompts, [[11, 12], [13], [14, 15, 16]])]


def _live_bytes() -> int:
    """Memory of every tensor that Python knows of.

    The least of several counts: gloo's threads let go of what they have sent and received a moment after it is there.
    """
    gc.collect()
    counts = []
    for _ in range(4):
        counts.append(_bytes_of_tensors())
        time.sleep(0.1)
    return min(counts)


def _bytes_of_tensors() -> int:
    tensors = [one for one in gc.get_objects() if type(one) in (Tensor, nn.Parameter)]
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors if not one.is_meta}
    return sum(storages.values())


def touched_in_a_run(ranks: Ranks, tiny: TinyRuns, folder: Path, changes: Mapping[str, Any]) -> list[str]:
    """Paths in the run folder that this rank wrote, created, renamed or removed."""
    touched: list[str] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if writes or event in ("os.mkdir", "os.rename", "os.remove"):
            touched.extend(str(path) for path in arguments[:2] if str(path).startswith(str(folder)))

    sys.addaudithook(watch)
    trained(ranks, tiny, folder, changes)
    return touched


class SentBytes(TorchDispatchMode):
    """Counts the bytes of torch's collectives by their names."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[str, list[int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            tensors = [tensor for tensor in torch.utils._pytree.tree_leaves(args) if isinstance(tensor, Tensor)]
            size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            self.sizes.setdefault(func._opname, []).append(size)
        return func(*args, **(kwargs or {}))


def bytes_of_a_run(
    ranks: Ranks, tiny: TinyRuns, folder: Path, changes: Mapping[str, Any]
) -> tuple[dict[str, list[int]], int]:
    """Bytes that a training passes to torch's collectives, and bytes of the trainable parameters."""
    with SentBytes() as sent:
        state = trained(ranks, tiny, folder, changes)["state"]
    return sent.sizes, sum(tensor.numel() * tensor.element_size() for tensor in state.values())
