"""The settings at the root of `conf/<verb>.yaml` for the verbs that write bundles.

In: nothing. Out: one dataclass per verb, `<Verb>Settings`.
"""

from dataclasses import dataclass
from typing import Literal

from ptl_prefix.artifacts.hub_address import HubAddress, is_hub_address
from ptl_prefix.commands.config.verb_settings import Routing, run_problems
from ptl_prefix.errors import HubError


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """The keys at the root of `conf/export.yaml`.

    Args:
        run: Run folder to export from.
        checkpoint: Checkpoint to export: `best`, `last`, or the path of a checkpoint file.
        out: Output folder; an older bundle in it is replaced.
        format: Format of the output: a `bundle`, or `peft` for a folder that `PeftModel.from_pretrained` opens.
        merge: Whether to export a model with the method merged into its weights, instead of a bundle.
        routing: What the bundle says of the task's texts, as in training; `None` is what the run was trained with.
    """

    run: str
    checkpoint: str
    out: str
    format: Literal["bundle", "peft"]
    merge: bool
    routing: Routing | None

    def problems(self) -> list[str]:
        """A folder that is not a run folder, or two formats at once."""
        both = ["`merge` must be false with format=peft, but is true."] if self.merge and self.format == "peft" else []
        return [*both, *run_problems(self.run)]


@dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """The keys at the root of `conf/import.yaml`.

    Args:
        peft: Folder of an adapter that PEFT saved, or its address on the hub.
        out: Folder for the bundle; an older bundle in it is replaced.
        before: Text before the source of a prompt, in which `{bos}` stands for the start token; not with `task`.
        between: Text between the source and what is generated; not with `task`.
        dtype: Dtype of the backbone's weights and computations; `auto` is bfloat16 where it is native, else float32.
        device: Device of the backbone; `auto` takes a GPU if there is one.
    """

    peft: str
    out: str
    before: str
    between: str
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    device: Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True, kw_only=True)
class PushSettings:
    """The keys at the root of `conf/push.yaml`.

    Args:
        bundle: Bundle, or a run folder, whose bundle is uploaded.
        repo: Repository on the hub, `<user>/<name>`; it is created if it is missing.
        private: Whether the repository must be private; `false` leaves an existing one as it is.
        revision: Branch that gets the commit; it is created if it is missing.
    """

    bundle: str
    repo: str
    private: bool
    revision: str

    def problems(self) -> list[str]:
        """A repository or branch whose name the hub does not take, or a bundle that is on the hub already."""
        try:
            HubAddress.parse(f"hub:{self.repo}@{self.revision}")
        except HubError:
            return [
                "`repo` must be <user>/<name> and `revision` a branch, but they are "
                f"{self.repo!r:.200} and {self.revision!r:.200}."
            ]
        if is_hub_address(self.bundle):
            return [f"`bundle` must be a folder of this machine, but is {self.bundle!r:.200}."]
        return []
