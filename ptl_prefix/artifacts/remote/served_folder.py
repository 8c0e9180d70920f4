"""A local folder with the bundles of all runs below an address, brought up to date whenever it is looked at.

In: an address. Out: a folder in the user's cache, whose subfolders are run folders without checkpoints, each replaced
in one step. A run that was seen once stays as long as it has a manifest, though an old listing may not show it; while
the store cannot be reached, everything stays. A run that is damaged is left out, or stays as it was.

The name of a subfolder is the last name of its run's address. Where several runs have one name, it belongs to the run
that has it already; if none has, none gets it, so that a name never means another run by chance.
"""

import os
import shutil
import threading
from collections.abc import Callable, Collection

from ptl_prefix.artifacts.atomic import write_folder_atomically
from ptl_prefix.artifacts.fingerprint import fingerprint_text
from ptl_prefix.artifacts.remote.address import RemoteAddress
from ptl_prefix.artifacts.remote.cache_room import SERVED, cache_in_use, keep, release, remote_cache_folder
from ptl_prefix.artifacts.remote.fetch import fetch_folder
from ptl_prefix.artifacts.remote.find_runs import find_manifests
from ptl_prefix.artifacts.remote.mirror_state import STATE_FILE, read_mirror_state
from ptl_prefix.artifacts.remote.object_store import DamagedObjectError, ObjectStore
from ptl_prefix.artifacts.remote.run_manifest import RunManifest, read_manifest_at
from ptl_prefix.errors import ObjectStoreError

_BUNDLE = "bundle/"


class ServedFolder:
    """The bundles below an address as a folder.

    Args:
        address: Address at or above mirrored runs; the last name of a run's address is the name of its subfolder.
        notify: Shows the operator one line when the store cannot be reached, when it can be again, and for each run
            that is left out.
    """

    def __init__(self, address: RemoteAddress, notify: Callable[[str], None]) -> None:
        self._address, self._notify = address, notify
        # Each process has a folder of its own: another one may serve the same address.
        self.path = remote_cache_folder() / SERVED / f"{fingerprint_text(str(address))[:24]}-{os.getpid()}"
        self._known: dict[str, RemoteAddress] = {}
        self._refused: dict[str, str] = {}
        self._problem: str | None = None
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Make the folder, and fetch what is there.

        Raises:
            ObjectStoreError: The store cannot be read.
        """
        shutil.rmtree(self.path, ignore_errors=True)
        with cache_in_use():
            self.path.mkdir(parents=True)
            keep(self.path)
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
        release(self.path)
        shutil.rmtree(self.path, ignore_errors=True)

    def _bring_up_to_date(self) -> None:
        with self._lock:
            store = ObjectStore(self._address.scheme)
            damaged: dict[RemoteAddress, str] = {}
            found = {
                address: manifest
                for address, manifest in find_manifests(store, self._address, damaged.__setitem__)
                if _has_bundle(manifest)
            }
            found |= self._not_listed(store, {*found, *damaged})
            refused = self._give_names(found) | {str(address): problem for address, problem in damaged.items()}
            for name, address in self._known.items():
                if address in found:
                    try:
                        self._put(name, address, found[address])
                    except DamagedObjectError as error:
                        refused[str(address)] = str(error)
            self._tell(refused)

    def _not_listed(self, store: ObjectStore, listed: Collection[RemoteAddress]) -> dict[RemoteAddress, RunManifest]:
        """The manifests of known runs that a listing does not show, as it may be old; those that are gone go."""
        found = {}
        for name, address in list(self._known.items()):
            if address in listed:
                continue
            try:
                read = read_manifest_at(store, address)
            except DamagedObjectError:
                continue  # it stays as it was
            if read is not None and _has_bundle(read[0]):
                found[address] = read[0]
            else:
                shutil.rmtree(self.path / name, ignore_errors=True)
                del self._known[name]
        return found

    def _give_names(self, found: Collection[RemoteAddress]) -> dict[str, str]:
        """Give each new run its name, if it is the only one that claims it.

        Returns:
            Why a run is not served, by its address.
        """
        claims: dict[str, list[RemoteAddress]] = {}
        for address in found:
            claims.setdefault(address.names[-1], []).append(address)
        refused = {}
        for name, addresses in claims.items():
            owner = self._known.get(name)
            if owner is None and len(addresses) == 1:
                owner = self._known[name] = addresses[0]
            for address in addresses:
                if address != owner:
                    others = ", ".join(str(one) for one in addresses if one != address)
                    refused[str(address)] = (
                        f"Each bundle must have a name of its own, which is the last name of its address, but {name!r} "
                        f"is also that of {others}{'' if owner is None else ', which keeps it'}; remove one of them, "
                        "or serve an address that is above one of them only."
                    )
        return refused

    def _tell(self, refused: dict[str, str]) -> None:
        """Say which runs are left out, or stay as they were, each reason once."""
        for address, reason in refused.items():
            if self._refused.get(address) != reason:
                self._notify(f"the bundle of {address} is left out as it is: {reason}")
        self._refused = refused

    def _put(self, name: str, address: RemoteAddress, manifest: RunManifest) -> None:
        state = read_mirror_state(self.path / name)
        if state is not None and state.address == str(address) and state.is_as_new_as(manifest):
            return
        fetched = fetch_folder(address, _is_served)
        with write_folder_atomically(self.path / name) as unfinished:
            # Copies: a link would change the time of the other names of the same file, as if it was written.
            shutil.copytree(fetched, unfinished, dirs_exist_ok=True)
        release(fetched)
        assert (self.path / name / STATE_FILE).is_file()


def _is_served(name: str) -> bool:
    return name == "config.yaml" or name.startswith(_BUNDLE)


def _has_bundle(manifest: RunManifest) -> bool:
    return any(name.startswith(_BUNDLE) for name in manifest.files)
