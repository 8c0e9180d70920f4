"""The settings at the root of `conf/route.yaml`, with types and ranges."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt, MinLen


@dataclass(frozen=True, kw_only=True)
class RouteSettings:
    """The keys at the root of `conf/route.yaml`.

    Args:
        bundles: Folder whose subfolders are run folders or bundles, each named as a server would name its task.
        inputs: Folder with `<name>.txt`, one input per line, for bundles that are in no run folder; `None` for none.
        foreign: File with one text of no task per line; `None` for none.
        routers: Routers that are measured: by hashed `ngrams`, by the backbone's `hidden_states`, or both.
        wrong_refusals: Rate at which texts of a task may be refused.
        split: Split of each run's task whose inputs are routed.
        num_examples: Number of inputs of each task, evenly spread over the split; `None` is all.
        regret_examples: Number of answered inputs of each task that are also decoded with the right and the chosen
            bundle, to compare the task's metrics; 0 decodes nothing.
        resamples: Bootstrap resamples of the intervals of regret.
        resample_seed: Seed of the resamples.
        out: Folder for `routing.json`; `None` is `outputs/routing`.
        batch_size: Number of sources decoded at once.
        dtype: Dtype of the backbone's weights and computations; `None` is that of the training.
        device: Device of the backbone; `auto` takes a GPU if there is one.
    """

    bundles: str
    inputs: str | None
    foreign: str | None
    routers: Annotated[Sequence[Literal["ngrams", "hidden_states"]], MinLen(1)]
    wrong_refusals: Annotated[float, Gt(0), Lt(1)]
    split: Literal["test", "validation", "train"]
    num_examples: Annotated[int, Ge(1)] | None
    regret_examples: Annotated[int, Ge(0)]
    resamples: Annotated[int, Ge(1)]
    resample_seed: Annotated[int, Ge(0)]
    out: str | None
    batch_size: Annotated[int, Ge(1)]
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None
    device: Literal["auto", "cpu", "cuda", "mps"]

    def problems(self) -> list[str]:
        """Folders and files that do not exist."""
        folders = {"bundles": self.bundles, "inputs": self.inputs}
        return [
            *(
                f"`{key}` must be a folder, but '{path}' is not one."
                for key, path in folders.items()
                if path is not None and not Path(path).is_dir()
            ),
            *(
                [f"`foreign` must be a file, but '{self.foreign}' is not one."]
                if self.foreign is not None and not Path(self.foreign).is_file()
                else []
            ),
        ]
