"""W&B: the users' dashboard. The only file that knows its library.

In: events. Out: one run of W&B's for each run of ours, by the run's own id, sent at once or kept in the run's folder to
be sent later. The library runs a process of its own and loses what it has not written when that dies; `events.jsonl`
does not, and `replay.py` tells it all again. It is imported when a run begins, as it takes half a second.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.fingerprint import uncommitted_changes
from ptl_prefix.errors import RunError
from ptl_prefix.tracking.events import RunFacts
from ptl_prefix.tracking.numbers import CURVES, numeric_values
from ptl_prefix.tracking.server_rows import ServerRows
from ptl_prefix.tracking.wandb_config import config_updates, flat_config
from ptl_prefix.tracking.wandb_mode import is_reachable

if TYPE_CHECKING:
    import wandb

STEP = "trainer/global_step"
"""The step of every curve. W&B's own would start again at 0 when a run is resumed."""

SENT_SUFFIX = ".synced"
"""W&B's own mark beside a run's file: all of it is on the server."""

_NOT_OF_THE_RUN: dict[str, Any] = {"disable_git": True, "x_disable_meta": True, "x_disable_stats": True}
"""What W&B would find out by itself, and wrongly, where a run is told again."""

_INIT_TIMEOUT_S = 20.0
_SAMPLE_COLUMNS = ("step", "source", "reference", "hypothesis")
_ENDS = ("finished", "stopped", "failed", "pruned", "died")


class WandbSink:
    """Tells W&B what happens.

    Args:
        mode: Over the network or not; `auto`: if there is a key and a server.
        project: W&B's project.
        entity: W&B's user or team.
        group: Runs that belong together.
        job_type: What kind of run it is.
        tags: W&B's.
        finish_timeout_s: How long the end waits for the server.
        is_replay: Told from a log: this machine, its commit and the time now are not the run's.
        known: What the server has of the run already, which is not told again.
    """

    def __init__(
        self,
        *,
        mode: Literal["auto", "online", "offline"],
        project: str,
        entity: str | None,
        group: str | None,
        job_type: str,
        tags: Sequence[str],
        finish_timeout_s: float,
        is_replay: bool = False,
        known: ServerRows | None = None,
    ) -> None:
        self._mode = mode
        self._place: dict[str, Any] = {"project": project, "entity": entity, "group": group}
        self._place |= {"job_type": job_type, "tags": list(tags)}
        self._finish_timeout_s = finish_timeout_s
        self._is_replay, self._known = is_replay, known
        self._run: wandb.Run | None = None
        self._samples: list[list[Any]] = []
        self._missing: set[str] = set()

    def open(self, facts: RunFacts) -> None:
        """Begin W&B's run, or go on with it, and say in one line where it is."""
        url = server_url()
        import wandb

        self._facts, self._wandb = facts, wandb
        if facts.resumed_step is not None:
            told = (event for event in read_events(facts.folder.events) if event["kind"] == "samples")
            self._samples = [row for event in told for row in _sample_rows(event["step"], event["samples"])]
        is_online, why = self._decide(url)
        # If a server that is there refuses the run, W&B is left out: its process keeps the id, and offline would wait.
        run = self._begin("online" if is_online else "offline")
        if is_online and facts.resumed_step is not None:
            self._attempt("question for what the server has", self._ask_what_is_known)
        later = f"ptl-prefix wandb sync {facts.folder.path}"
        facts.notify(f"W&B: {run.url}" if is_online else f"W&B: offline, {why}; to send it later: {later}")

    def _decide(self, url: str) -> tuple[bool, str]:
        """Whether to go online, and if not, why."""
        if self._mode != "auto":
            return self._mode == "online", "as configured"
        if not has_key(url):
            return False, "as there is no key"
        return is_reachable(url), f"as {url} does not answer"

    def _begin(self, mode: Literal["online", "offline"]) -> "wandb.Run":
        facts, folder = self._facts, self._facts.folder.path
        settings = self._wandb.Settings(
            silent=True,
            console="off",
            init_timeout=_INIT_TIMEOUT_S,
            finish_timeout=self._finish_timeout_s,
            finish_timeout_raises=True,
            stop_fn=lambda: self._stop(),  # a bound method would be copied with all that hangs on it
            disable_job_creation=True,
            **(_NOT_OF_THE_RUN if self._is_replay else {}),
        )
        names = flat_config(facts.config)
        run = self._wandb.init(
            **self._place,
            id=self.run_id(facts),
            name="-".join(str(names[key]) for key in ("method", "task", "backbone", "seed") if key in names),
            config=names,
            dir=str(folder),
            mode=mode,
            resume="allow",
            # One run never becomes part of another, whoever has one open in this process.
            reinit="create_new",
            settings=settings,
        )
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP)
        self._run, self._file = run, Path(run.settings.sync_file)
        return run

    def run_id(self, facts: RunFacts) -> str:
        """The run's own. Jobs of a foreign sweep that was given one name for all are told apart by their folders."""
        run_id, folder = facts.run_id, facts.folder.path.name
        is_its_own = self._place["group"] is None or facts.config.get("study") is not None or folder == run_id
        return run_id if is_its_own else f"{run_id}-{folder}"

    @property
    def file(self) -> Path:
        """Where W&B keeps the run that was begun."""
        return self._file

    def _ask_what_is_known(self) -> None:
        """A run that was killed may have told the server more than the checkpoint that it goes on from."""
        assert self._run is not None
        self._known = fetch_server_rows(self._run.project, self._run.entity, self._run.id)

    def _stop(self) -> None:
        self._facts.notify("W&B: the Stop button was pressed")
        self._facts.request_stop()

    def write(self, kind: str, *, step: int, **values: Any) -> None:
        """Draw numbers over steps, keep sizes among the settings, samples in a table, and the end in the summary.

        A `time_s` among the values, as replayed events have it, is when it happened.
        """
        run = self._run
        assert run is not None, "the run is open"
        self._at = {"_timestamp": values.pop("time_s")} if "time_s" in values else {}
        if kind in CURVES:
            self._log(step, numeric_values(values))
        elif settings := config_updates(kind, values):
            run.config.update(settings, allow_val_change=True)
            if settings.get("git_dirty") and not self._is_replay:  # no commit has this code
                self._attempt("patch of the code", self._keep_patch)
        elif kind == "trials":
            self._attempt("table of trials", lambda: self._log_trials(step, values["columns"], values["rows"]))
        elif kind == "samples":
            self._attempt("table of samples", lambda: self._add_samples(step, values["samples"]))
        elif kind in ("bare", "note", "error") or kind in _ENDS:
            ended = {"status": kind} if kind in _ENDS else {}
            run.summary.update({**ended, **values})
            if kind == "finished":
                self._attempt("bundle", lambda: self._keep_bundle(numeric_values(values)))

    def _attempt(self, what: str, log: Callable[[], None]) -> None:
        """Log what asks the server first: the curves go on without it. That it failed is said once."""
        try:
            log()
        except Exception as error:
            if what not in self._missing:
                fact = f"{type(error).__name__}: {error}".splitlines()[0]
                self._facts.notify(f"W&B: a {what} could not be logged ({fact})")
            self._missing.add(what)

    def _add_samples(self, step: int, samples: Sequence[Mapping[str, str]]) -> None:
        """Let the table of samples grow. Always a new table: one that grows by itself asks the server, and waits."""
        assert self._run is not None
        self._samples += _sample_rows(step, samples)
        self._log(step, {"samples": self._wandb.Table(list(_SAMPLE_COLUMNS), list(self._samples))})

    def _log_trials(self, step: int, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A study's trials. Columns hold numbers and words alike, and nothing where a key is another arm's."""
        table = self._wandb.Table(list(columns), [list(row) for row in rows], allow_mixed_types=True)
        self._log(step, {"trials": table})

    def _log(self, step: int, row: Mapping[str, Any]) -> None:
        """Log one row of the history, unless the server has it."""
        assert self._run is not None
        if self._known is None or not self._known.has(step, {STEP, *row}):
            self._run.log({STEP: step, **row, **self._at})

    def _keep_patch(self) -> None:
        """Beside the commit what it lacks. W&B's own would be of the working directory's repository."""
        patch = uncommitted_changes()
        if self._run is None or not patch:
            return
        file = Path(self._run.dir, "diff.patch")
        file.write_text(patch, encoding="utf-8")
        self._run.save(str(file), base_path=self._run.dir, policy="now")

    def _keep_bundle(self, metrics: Mapping[str, float]) -> None:
        """The bundle as an artifact: it is of the best checkpoint, and the latest of its run."""
        folder = self._facts.folder.bundle
        if self._run is None or not folder.is_dir():
            return
        artifact = self._wandb.Artifact(f"bundle-{self._facts.run_id}", type="bundle", metadata=dict(metrics))
        artifact.add_dir(str(folder), policy="immutable")  # sent from where it lies; else copied to the home folder
        self._run.log_artifact(artifact, aliases=["best", "latest"])

    def close(self, exit_code: int) -> None:
        """End W&B's run with the process's exit code; what could not be sent in time stays in the folder."""
        if self._run is None:
            return
        run, self._run = self._run, None
        try:
            run.finish(exit_code=exit_code)
        except TimeoutError:
            self._facts.notify(
                f"W&B: not all was sent within {self._finish_timeout_s:g} s; "
                f"to send the rest: ptl-prefix wandb sync {self._facts.folder.path}"
            )
            return
        if not run.offline:
            self._file.with_name(self._file.name + SENT_SUFFIX).touch()


def _sample_rows(step: int, samples: Sequence[Mapping[str, str]]) -> list[list[Any]]:
    return [[step, *(sample[name] for name in _SAMPLE_COLUMNS[1:])] for sample in samples]


def server_url() -> str:
    """Where W&B's server is: its own, or the one that the environment or a settings file names."""
    # What the library reports of its own failures goes out even offline.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    if os.environ.get("WANDB_MODE") == "":  # a shell's way to unset a variable, but none of the library's modes
        del os.environ["WANDB_MODE"]
    import wandb

    # By itself it repeats each question for many minutes, and a process that ends waits for that.
    impatient = wandb.Settings(silent=True, x_graphql_retry_max=2, x_graphql_retry_wait_max_seconds=2.0)
    return str(wandb.setup(impatient).settings.base_url)


def has_key(url: str) -> bool:
    """Whether W&B would find a key for its server, in the environment or in a netrc file."""
    from wandb.errors import AuthenticationError
    from wandb.sdk.lib import wbauth

    try:
        found = wbauth.authenticate_session(host=url, source="ptl-prefix", prompt=False, update_session=False)
    except AuthenticationError:
        return False
    return found is not None


_HISTORY_QUESTION = """
query RunHistoryTail($project: String!, $entity: String, $name: String!) {
  model(name: $project, entityName: $entity) {
    bucket(name: $name, missingOk: true) { historyLineCount historyTail }
  }
}
"""


def fetch_server_rows(project: str, entity: str | None, run_id: str) -> ServerRows | None:
    """What the server has of a run's history; `None`: nothing. W&B's client would append all of it once more."""
    answer = query_server(_HISTORY_QUESTION, {"project": project, "entity": entity, "name": run_id})
    bucket = (answer.get("model") or {}).get("bucket")
    tail = json.loads((bucket or {}).get("historyTail") or "[]")
    if not bucket or not bucket["historyLineCount"] or not tail:
        return None
    row = json.loads(tail[-1])
    return ServerRows(int(row.get(STEP, -1)), frozenset(name for name in row if not name.startswith("_")))


def query_server(question: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a question of one's own, asked as wandb-workspaces does: the public API asks for far more.

    Raises:
        RunError: When the server does not answer it.
    """
    import wandb

    try:
        answer: dict[str, Any] = wandb.Api()._service_api.execute_graphql(question, variables)
    except Exception as error:  # whatever the client raises
        fact = f"{type(error).__name__}: {error}".splitlines()[0]
        raise RunError(f"W&B's server must say what it has, but does not ({fact}); try again later.") from error
    return answer
