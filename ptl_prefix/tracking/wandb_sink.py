"""Logs a run to W&B. The only file that imports `wandb`.

In: events. Out: a W&B run with the run's own id, uploaded immediately or kept in the run folder for later upload. W&B's
background process loses unwritten data when it is killed; `events.jsonl` does not, and `replay.py` logs it again.
`wandb` is imported when a run starts, because the import takes half a second.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.fingerprint import uncommitted_changes
from ptl_prefix.artifacts.printed_command import printed_command
from ptl_prefix.errors import RunError
from ptl_prefix.tracking.events import RunFacts
from ptl_prefix.tracking.numbers import CURVES, numeric_values
from ptl_prefix.tracking.server_rows import ServerRows
from ptl_prefix.tracking.wandb_config import config_updates, flat_config
from ptl_prefix.tracking.wandb_mode import is_reachable

if TYPE_CHECKING:
    import wandb

STEP = "trainer/global_step"
"""The x axis of every curve. W&B's own step would restart at 0 when a run is resumed."""

SYNCED_SUFFIX = ".synced"
"""W&B creates a file with this suffix next to a run's file when the server has all of it."""

_REPLAY_SETTINGS: dict[str, Any] = {"disable_git": True, "x_disable_meta": True, "x_disable_stats": True}
"""Disable what W&B detects by itself: in a replay, this machine and its git state are not those of the run."""

_INIT_TIMEOUT_S = 20.0
_SAMPLE_COLUMNS = ("step", "source", "reference", "hypothesis")
_ENDS = ("finished", "stopped", "failed", "pruned", "died")


class WandbSink:
    """Logs events to a W&B run.

    Args:
        mode: `online`, `offline`, or `auto`: online if there is an API key and the server responds.
        project: W&B project.
        entity: W&B user or team; `None` uses the default entity of the API key.
        group: W&B group of the run; `None` for no group.
        name: W&B name of the run; `None` is `<method>-<task>-<backbone>-<seed>`.
        job_type: W&B job type of the run.
        tags: W&B tags of the run.
        finish_timeout_s: Seconds that `close` waits for uploads.
        is_replay: Whether events come from a log; this machine, its git state and the current time are not the run's.
        uploaded: Rows that the server already has, which are not logged again; `None` if it has none.
    """

    def __init__(
        self,
        *,
        mode: Literal["auto", "online", "offline"],
        project: str,
        entity: str | None,
        group: str | None,
        name: str | None = None,
        job_type: str,
        tags: Sequence[str],
        finish_timeout_s: float,
        is_replay: bool = False,
        uploaded: ServerRows | None = None,
    ) -> None:
        self._mode = mode
        self._init_settings: dict[str, Any] = {"project": project, "entity": entity, "group": group}
        self._init_settings |= {"job_type": job_type, "tags": list(tags)}
        self._name = name
        self._finish_timeout_s = finish_timeout_s
        self._is_replay, self._uploaded = is_replay, uploaded
        self._run: wandb.Run | None = None
        self._samples: list[list[Any]] = []
        self._failed: set[str] = set()

    def open(self, facts: RunFacts) -> None:
        """Start or resume the W&B run, and notify the user of its URL or of its mode."""
        url = server_url()
        import wandb

        self._facts, self._wandb = facts, wandb
        if facts.resumed_step is not None:
            logged = (event for event in read_events(facts.folder.events) if event["kind"] == "samples")
            self._samples = [row for event in logged for row in _sample_rows(event["step"], event["samples"])]
        is_online, reason = self._decide(url)
        # Offline mode is no fallback if the server rejects the run: W&B's process keeps the run id and would block.
        run = self._start("online" if is_online else "offline")
        if is_online and facts.resumed_step is not None:
            self._attempt("list of uploaded rows", self._fetch_uploaded)
        later = f"to upload the run later: {printed_command('wandb', 'sync', facts.folder.path)}"
        facts.notify(f"W&B: {run.url}" if is_online else f"W&B: offline, {reason}; {later}")

    def _decide(self, url: str) -> tuple[bool, str]:
        """Return whether to go online, and the reason if not."""
        if self._mode != "auto":
            return self._mode == "online", "as configured"
        if not has_key(url):
            return False, "because there is no API key"
        return is_reachable(url), f"because {url} does not respond"

    def _start(self, mode: Literal["online", "offline"]) -> "wandb.Run":
        facts, folder = self._facts, self._facts.folder.path
        settings = self._wandb.Settings(
            silent=True,
            console="off",
            init_timeout=_INIT_TIMEOUT_S,
            finish_timeout=self._finish_timeout_s,
            finish_timeout_raises=True,
            stop_fn=lambda: self._stop(),  # W&B copies its settings, and with a bound method this whole object
            disable_job_creation=True,
            **(_REPLAY_SETTINGS if self._is_replay else {}),
        )
        names = flat_config(facts.config)
        parts = [str(names[key]) for key in ("method", "task", "backbone", "seed") if key in names]
        run = self._wandb.init(
            **self._init_settings,
            id=self.run_id(facts),
            name=self._name or "-".join(parts),
            config=names,
            dir=str(folder),
            mode=mode,
            resume="allow",
            # Never join a W&B run that is already open in this process.
            reinit="create_new",
            settings=settings,
        )
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP)
        self._run, self._file = run, Path(run.settings.sync_file)
        return run

    def run_id(self, facts: RunFacts) -> str:
        """Return W&B's id of a run: the run's id, plus the folder name if several jobs of a sweep share one run id."""
        run_id, folder = facts.run_id, facts.folder.path.name
        is_unique = self._init_settings["group"] is None or facts.config.get("study") is not None or folder == run_id
        return run_id if is_unique else f"{run_id}-{folder}"

    @property
    def file(self) -> Path:
        """The W&B file of the run."""
        return self._file

    def _fetch_uploaded(self) -> None:
        """Fetch what the server has: a killed run may have uploaded steps after the checkpoint that it resumes from."""
        assert self._run is not None
        self._uploaded = fetch_server_rows(self._run.project, self._run.entity, self._run.id)

    def _stop(self) -> None:
        self._facts.notify("W&B: the Stop button was pressed")
        self._facts.request_stop()

    def write(self, kind: str, *, step: int, **values: Any) -> None:
        """Log curves as history, sizes as config, samples and trials as tables, and the final status as summary.

        The value `time_s` of replayed events is their timestamp.
        """
        run = self._run
        assert run is not None, "the run is open"
        self._at = {"_timestamp": values.pop("time_s")} if "time_s" in values else {}
        if kind in CURVES:
            self._log(step, numeric_values(values))
        elif settings := config_updates(kind, values):
            run.config.update(settings, allow_val_change=True)
            if settings.get("git_dirty") and not self._is_replay:  # the code has uncommitted changes
                self._attempt("patch of uncommitted changes", self._keep_patch)
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
        """Log something that needs the server; if it fails, notify the user once, and keep logging curves."""
        try:
            log()
        except Exception as error:
            if what not in self._failed:
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                self._facts.notify(f"W&B: the {what} could not be transferred ({reason})")
            self._failed.add(what)

    def _add_samples(self, step: int, samples: Sequence[Mapping[str, str]]) -> None:
        """Log all samples so far as a new table, because an incremental table of W&B blocks on the server."""
        self._samples += _sample_rows(step, samples)
        self._log(step, {"samples": self._wandb.Table(list(_SAMPLE_COLUMNS), list(self._samples))})

    def _log_trials(self, step: int, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Log a study's trials. Columns have mixed types, and are empty for parameters of other arms."""
        table = self._wandb.Table(list(columns), [list(row) for row in rows], allow_mixed_types=True)
        self._log(step, {"trials": table})

    def _log(self, step: int, row: Mapping[str, Any]) -> None:
        """Log one row of the history, unless the server already has it."""
        assert self._run is not None
        if self._uploaded is None or not self._uploaded.has(step, {STEP, *row}):
            self._run.log({STEP: step, **row, **self._at})

    def _keep_patch(self) -> None:
        """Upload the uncommitted changes of this package; W&B would use the repository of the working directory."""
        patch = uncommitted_changes()
        if self._run is None or not patch:
            return
        file = Path(self._run.dir, "diff.patch")
        file.write_text(patch, encoding="utf-8")
        self._run.save(str(file), base_path=self._run.dir, policy="now")

    def _keep_bundle(self, metrics: Mapping[str, float]) -> None:
        """Log the bundle as an artifact with the aliases `best` (it is the best checkpoint's) and `latest`."""
        folder = self._facts.folder.bundle
        if self._run is None or not folder.is_dir():
            return
        artifact = self._wandb.Artifact(f"bundle-{self._facts.run_id}", type="bundle", metadata=dict(metrics))
        artifact.add_dir(str(folder), policy="immutable")  # uploaded in place; W&B would copy it to the home folder
        self._run.log_artifact(artifact, aliases=["best", "latest"])

    def close(self, exit_code: int) -> None:
        """Finish the W&B run; data that was not uploaded in time stays in the run folder."""
        if self._run is None:
            return
        run, self._run = self._run, None
        try:
            run.finish(exit_code=exit_code)
        except TimeoutError:
            self._facts.notify(
                f"W&B: the upload did not finish within {self._finish_timeout_s:g} s; "
                f"to upload the rest: {printed_command('wandb', 'sync', self._facts.folder.path)}"
            )
            return
        if not run.offline:
            self._file.with_name(self._file.name + SYNCED_SUFFIX).touch()


def _sample_rows(step: int, samples: Sequence[Mapping[str, str]]) -> list[list[Any]]:
    return [[step, *(sample[name] for name in _SAMPLE_COLUMNS[1:])] for sample in samples]


def server_url() -> str:
    """Return the URL of W&B's server: the default, or that of the environment or a W&B settings file."""
    # Even in offline mode W&B would send reports of its own errors.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    if os.environ.get("WANDB_MODE") == "":  # some shells unset a variable this way; W&B rejects the empty value
        del os.environ["WANDB_MODE"]
    import wandb

    # By default W&B retries queries for many minutes, and the process cannot exit before.
    settings = wandb.Settings(silent=True, x_graphql_retry_max=2, x_graphql_retry_wait_max_seconds=2.0)
    return str(wandb.setup(settings).settings.base_url)


def has_key(url: str) -> bool:
    """Whether W&B finds an API key for a server, in the environment or in a netrc file."""
    from wandb.errors import AuthenticationError
    from wandb.sdk.lib import wbauth

    try:
        found = wbauth.authenticate_session(host=url, source="ptl-prefix", prompt=False, update_session=False)
    except AuthenticationError:
        return False
    return found is not None


_HISTORY_QUERY = """
query RunHistoryTail($project: String!, $entity: String, $name: String!) {
  model(name: $project, entityName: $entity) {
    bucket(name: $name, missingOk: true) { historyLineCount historyTail }
  }
}
"""


def fetch_server_rows(project: str, entity: str | None, run_id: str) -> ServerRows | None:
    """Return the rows of a run that the server has, or `None`. W&B's client would upload them a second time."""
    answer = query_server(_HISTORY_QUERY, {"project": project, "entity": entity, "name": run_id})
    bucket = (answer.get("model") or {}).get("bucket")
    tail = json.loads((bucket or {}).get("historyTail") or "[]")
    if not bucket or not bucket["historyLineCount"] or not tail:
        return None
    row = json.loads(tail[-1])
    return ServerRows(int(row.get(STEP, -1)), frozenset(name for name in row if not name.startswith("_")))


def query_server(query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Run a GraphQL query, as wandb-workspaces does; the public API would fetch far more.

    Raises:
        RunError: The query failed.
    """
    import wandb

    try:
        answer: dict[str, Any] = wandb.Api()._service_api.execute_graphql(query, variables)
    except Exception as error:  # the client raises errors of many types
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise RunError(f"W&B's server must answer a query, but did not ({reason}); try again later.") from error
    return answer
