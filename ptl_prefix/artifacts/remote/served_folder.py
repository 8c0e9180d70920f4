"""A local folder with the bundles of all runs below an address, brought up to date whenever it is looked at.

In: an address. Out: a folder in the user's cache, whose subfolders are run folders without checkpoints, each replaced
in one step. A run that was seen once stays as long as its manifest can be read, though an old listing may not show it;
while the store cannot be reached, everything stays.
"""

import os
import shutil
import threading
from collections.abc import Callable

from ptl_prefix.artifacts.atomic import write_folder_atomically
from ptl_prefix.artifacts.fingerprint import fingerprint_text
from ptl_prefix.artifacts.remote.address import RemoteAddress
from ptl_prefix.artifacts.remote.fetch import fetch_folder
from ptl_prefix.artifacts.remote.find_runs import find_manifests
from ptl_prefix.artifacts.remote.local_cache import remote_cache_folder
from ptl_prefix.artifacts.remote.mirror_state import STATE_FILE, read_mirror_state
from ptl_prefix.artifacts.remote.object_store import ObjectStore
from ptl_prefix.artifacts.remote.run_manifest import RunManifest, read_manifest_at
from ptl_prefix.errors import ObjectStoreError

_BUNDLE = "bundle/"


class ServedFolder:
    """The bundles below an address as a folder.

    Args:
        address: Address at or above mirrored runs; the last name of a run's address is the name of its subfolder.
        notify: Shows the operator one line when the store cannot be reached, and when it can be again.
    """

    def __init__(self, address: RemoteAddress, notify: Callable[[str], None]) -> None:
        self._address, self._notify = address, notify
        # Each process has a folder of its own: another one may serve the same address.
        self.path = remote_cache_folder() / "served" / f"{fingerprint_text(str(address))[:24]}-{os.getpid()}"
        self._known: dict[str, RemoteAddress] = {}
        self._problem: str | None = None
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Make the folder, and fetch what is there.

        Raises:
            ObjectStoreError: The store cannot be read.
        """
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        self._bring_up_to_date()

    def refresh(self) -> None:
        """Bring the folder up to date; what cannot be reached stays as it is."""
        try:
            self._bring_up_to_date()
        except ObjectStoreError as error:
            if self._problem is None:
                self._notify(f"the bundles of {self._address} stay as they are: {error}")
            self._problem = str(error)
        else:
            if self._problem is not None:
                self._notify(f"the bundles of {self._address} can be read again")
            self._problem = None

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _bring_up_to_date(self) -> None:
        with self._lock:
            store = ObjectStore(self._address.scheme)
            found = dict(find_manifests(store, self._address))
            for address in found:
                self._known.setdefault(address.names[-1], address)
            for name, address in list(self._known.items()):
                manifest = found.get(address)
                if manifest is None and (read := read_manifest_at(store, address)) is not None:
                    manifest = read[0]
                if manifest is None or not any(one.startswith(_BUNDLE) for one in manifest.files):
                    shutil.rmtree(self.path / name, ignore_errors=True)
                    if manifest is None:
                        del self._known[name]
                else:
                    self._put(name, address, manifest)

    def _put(self, name: str, address: RemoteAddress, manifest: RunManifest) -> None:
        state = read_mirror_state(self.path / name)
        if state is not None and state.is_as_new_as(manifest):
            return
        fetched = fetch_folder(address, _is_served)
        with write_folder_atomically(self.path / name) as unfinished:
            # Copies: a link would change the time of the other names of the same file, as if it was written.
            shutil.copytree(fetched, unfinished, dirs_exist_ok=True)
        assert (self.path / name / STATE_FILE).is_file()


def _is_served(name: str) -> bool:
    return name == "config.yaml" or name.startswith(_BUNDLE)
