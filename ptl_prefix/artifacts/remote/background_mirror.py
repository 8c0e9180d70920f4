"""Mirrors a run while it trains, in a thread of its own: training never waits for the store, nor fails with it.

In: calls of the training, each when its files are in order. Out: the mirror, as new as the store allows; and at the end
the reason why it is behind, if it is. A snapshot that waits is replaced by a newer one.
"""

import threading
import time
from collections.abc import Callable

from ptl_prefix.artifacts.printed_command import printed_command
from ptl_prefix.artifacts.remote.mirror import Mirror, ReplacedMirrorError
from ptl_prefix.artifacts.remote.mirror_state import MirrorState, read_mirror_state, write_mirror_state
from ptl_prefix.artifacts.remote.snapshot import Snapshot, folder_files, remove_old_snapshots, snapshot_of_run
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.errors import PtlPrefixError

Notify = Callable[[str], None]

FINAL_WAIT_S = 60.0
_SLOWEST_BYTES_PER_S = 2e6
"""The end of a run waits as long as this rate needs for all files of the folder."""
OPEN = "open"
"""The status of a run without a record."""


class BackgroundMirror:
    """The mirror of a run that trains.

    Args:
        folder: Run folder.
        mirror: Mirror of the folder.
        notify: Shows the user one line.
        final_wait_s: Seconds that the end of the run waits for the store, besides those for the size of the folder.
    """

    def __init__(
        self, folder: RunFolder, mirror: Mirror, notify: Notify, *, final_wait_s: float = FINAL_WAIT_S
    ) -> None:
        self._folder, self._mirror, self._notify = folder, mirror, notify
        self._final_wait_s = final_wait_s
        self._changed = threading.Condition()
        self._waiting: tuple[Snapshot, str] | None = None
        self._is_busy = self._is_ending = False
        self._is_replaced = False
        self._deadline = float("inf")
        self._problem: str | None = None
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)

    def start(self) -> None:
        """Remove what a killed process left, and start the thread."""
        remove_old_snapshots(self._folder)
        self._thread.start()

    def take(self) -> None:
        """Mirror the folder as it is now; returns at once. The caller writes none of the files meanwhile."""
        if self._is_replaced:
            return
        try:
            snapshot = snapshot_of_run(self._folder)
        except OSError as error:
            self._fall_behind(f"the folder cannot be copied ({error})")
            return
        with self._changed:
            if self._waiting is not None:
                self._waiting[0].remove()
            self._waiting = (snapshot, status_of(self._folder))
            self._changed.notify_all()

    def finish(self) -> str | None:
        """Mirror the end of the run, and wait for the store, but not for ever. A mirror that was not started only ends.

        Returns:
            Why the mirror is behind, with the command that repeats the upload; `None` if it has everything.
        """
        if not self._thread.is_alive():
            return None
        self.take()
        num_bytes = sum(path.stat().st_size for path in folder_files(self._folder))
        wait_s = self._final_wait_s + num_bytes / _SLOWEST_BYTES_PER_S
        self._deadline = time.monotonic() + wait_s
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()
        self._thread.join(wait_s + 1.0)
        problem = self._problem
        if self._thread.is_alive():
            problem = problem or f"the store did not take everything within {wait_s:.0f} s"
        if problem is None:
            return None
        self._note_behind(problem)
        again = printed_command("mirror", self._folder.path)
        advice = "" if self._is_replaced else f" Everything is in the run folder; repeat the upload with: {again}"
        return f"The mirror {self._mirror.address} is behind: {problem}{'' if problem.endswith('.') else '.'}{advice}"

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._is_ending)
                if self._waiting is None:
                    return
                snapshot, status = self._waiting
                self._waiting = None
            try:
                self._mirror.write(snapshot, status, self._require_time)
            except ReplacedMirrorError as error:
                self._is_replaced = True
                self._fall_behind(str(error))
            except Exception as error:  # whatever a library raises, training goes on
                self._fall_behind(str(error) or type(error).__name__)
            else:
                self._catch_up()
            finally:
                snapshot.remove()

    def _require_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise TimeoutError("the store did not take everything in time")

    def _fall_behind(self, problem: str) -> None:
        if self._problem is None:
            self._notify(f"the mirror {self._mirror.address} is behind, and training goes on: {problem}")
        self._problem = problem

    def _catch_up(self) -> None:
        if self._problem is not None:
            self._notify(f"the mirror {self._mirror.address} has everything again")
        self._problem = None

    def _note_behind(self, problem: str) -> None:
        """Keep in `mirror.json` that the mirror is behind, for whoever looks later."""
        state = read_mirror_state(self._folder.path)
        address = str(self._mirror.address)
        state = state or MirrorState(address=address, epoch=0, sequence=0, writer="")
        try:
            write_mirror_state(self._folder.path, MirrorState(**{**vars(state), "behind": problem[:500]}))
        except (OSError, PtlPrefixError):
            return  # the message says it


def status_of(folder: RunFolder) -> str:
    """The status in a run's record; `open` without a readable one."""
    if not folder.record.exists():
        return OPEN
    try:
        return read_record(folder.record).status
    except PtlPrefixError:
        return OPEN
