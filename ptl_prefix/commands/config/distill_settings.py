"""The settings at the root of `conf/distill.yaml`, with types and ranges."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from ptl_prefix.artifacts.printed_command import printed_command
from ptl_prefix.artifacts.remote.address import is_remote_address
from ptl_prefix.artifacts.remote.outputs_url import outputs_url_problem
from ptl_prefix.artifacts.run_folder import is_name
from ptl_prefix.commands.config.verb_settings import Routing, run_problems


@dataclass(frozen=True, kw_only=True)
class DistillSettings:
    """The keys at the root of `conf/distill.yaml`.

    Args:
        document: Text file in UTF-8; needed unless a run is resumed.
        questions: File of questions that are asked at the end, of the prefix and its controls; `None` asks none.
        loss: What the answers teach: `teacher` is the cross-entropy to the teacher's log-probabilities, `next_token`
            that to the tokens of the answers.
        update: Run folder of an older version of the document, whose prefix is trained further; `None` begins anew.
        replay_share: With `update`, the share of the training conversations that are of the older version, as far as
            it has so many.
        name: Name of the document in folders and records.
        seed: Seed of initialisation, batch order and dropout.
        run_id: Name of the run and of its folder; by default the time and a random part.
        dry_run: Whether to print the chunks, conversations, tokens, steps and files, and do nothing.
        resume: Run folder of a stopped or killed run to resume, or the address where it is mirrored; `None` starts a
            new run. No other settings may be given with it, as the run has its config.
        routing: What the bundle says of the document's questions, so that a server recognises them: `ngrams`,
            `hidden_states`, or `none`, for private texts.
        outputs_url: Address in an object store below which the run is mirrored, at every validation and at its end:
            `s3://<bucket>/<path>`, `gs://<bucket>/<path>` or `file:///<path>`; `None` mirrors nothing.
    """

    document: str | None
    questions: str | None
    loss: Literal["teacher", "next_token"]
    update: str | None
    replay_share: Annotated[float, Gt(0), Lt(1)]
    name: str
    seed: Annotated[int, Ge(0), Le(2**32 - 1)]
    run_id: str
    dry_run: bool
    resume: str | None
    routing: Routing
    outputs_url: str | None

    def problems(self) -> list[str]:
        """Files and runs that are missing."""
        if self.resume is not None:
            return []
        problems = [] if self.document is not None else ["`document` must be given: the path of a text file."]
        problems += [
            f"`{key}` must be a file, but '{path}' is not one."
            for key, path in (("document", self.document), ("questions", self.questions))
            if path is not None and not Path(path).is_file()
        ]
        if not is_name(self.name):
            problems.append(
                f"`name` must be a folder's name of the characters A-Z a-z 0-9 . _ -, but is {self.name!r}."
            )
        if (problem := outputs_url_problem(self.outputs_url)) is not None:
            problems.append(problem)
        return problems + self._update_problems()

    def _update_problems(self) -> list[str]:
        if self.update is not None and is_remote_address(self.update):
            return [
                f"`update` must be a run folder on this machine, which later runs read again, but is {self.update}; "
                f"fetch it with: {printed_command('mirror', self.update, 'out=<folder>')}"
            ]
        return [problem.replace("`run`", "`update`") for problem in run_problems(self.update)]
