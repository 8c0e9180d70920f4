"""The prefixes of the bundles that requests use, in memory.

In: bundles that are offered, and requests that hold them. Out: `LoadedPrefix`es by version.

A version is the hash of a bundle's manifest, which holds the hash of its tensors. The tensors are read when a request
first holds the version, in one piece and together with the manifest, and both hashes are compared: a bundle that was
replaced or damaged since it was offered is refused, and never served under the old version. A request holds a version
from the moment it is submitted until it ends: a bundle that is replaced or unloaded meanwhile does not change it.
Prefixes stay in memory until the memory is needed for others, the least recently used first.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from ptl_prefix.artifacts.bundle import Bundle, read_bundle
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.errors import BundleError, RequestError
from ptl_prefix.serving.prefix_loading import LoadedPrefix, load_prefix
from ptl_prefix.serving.served_bundle import ServedBundle


@dataclass(frozen=True)
class StoreStatus:
    """The store at one moment.

    Args:
        num_bundles: Bundles that are offered.
        num_loaded: Versions whose prefix is in memory.
        prefix_bytes: Memory of these prefixes.
        num_loads: Prefixes that were loaded since the start.
        num_evictions: Prefixes whose memory was taken for others since the start.
    """

    num_bundles: int
    num_loaded: int
    prefix_bytes: int
    num_loads: int
    num_evictions: int


@dataclass
class _Version:
    """One version that is offered or in use."""

    bundle: ServedBundle
    folder: Path
    content: Bundle | None = None
    num_holders: int = 0
    num_users: int = 0
    is_offered: bool = True


class VersionStore:
    """Bundles by version. Its functions may be called from any thread, `use` on the engine's only.

    Args:
        backbone: The frozen base.
        max_bytes: Memory for prefixes.
    """

    def __init__(self, backbone: Backbone, *, max_bytes: int) -> None:
        self.backbone = backbone
        self.max_bytes = max_bytes
        self._lock = threading.RLock()
        self._versions: dict[str, _Version] = {}
        self._loaded: OrderedDict[str, LoadedPrefix] = OrderedDict()
        self._loaded_bytes = 0
        self._num_loads = self._num_evictions = 0

    def offer(self, bundle: ServedBundle, folder: Path) -> None:
        """Let requests hold a bundle. The same content under another name, or still held, is the same version."""
        with self._lock:
            entry = self._versions.setdefault(bundle.version, _Version(bundle, folder))
            entry.is_offered, entry.folder = True, folder

    def withdraw(self, version: str) -> None:
        """Let no further request hold a version, and forget it when none does."""
        with self._lock:
            entry = self._versions[version]
            entry.is_offered = False
            if not entry.num_holders:
                self._forget(version)

    def folder_of(self, version: str) -> Path:
        """The folder that a version was last offered from."""
        with self._lock:
            return self._versions[version].folder

    def hold(self, version: str) -> ServedBundle:
        """Bind a request to a version: its tensors are read now, and kept until `release`.

        Raises:
            RequestError: When the version is neither offered nor held.
            BundleError: When its files cannot be read, or have changed.
        """
        with self._lock:
            held = self._versions.get(version)
            if held is None or not held.is_offered:
                raise RequestError(f"The bundle's version {version!r:.80} is not offered any more; ask for it by name.")
            held.num_holders += 1
            is_ready = held.content is not None or version in self._loaded
        try:
            if not is_ready:
                content = read_bundle(held.folder)
                if content.version != version:
                    raise BundleError(f"The bundle {held.bundle.model_id} was replaced; ask for it by its name again.")
                held.content = content
        except BaseException:
            self.release(version)
            raise
        return held.bundle

    def release(self, version: str) -> None:
        """End what `hold` began."""
        with self._lock:
            held = self._versions[version]
            held.num_holders -= 1
            if not held.num_holders:
                held.content = None
                if not held.is_offered:
                    self._forget(version)

    def use(self, version: str) -> LoadedPrefix:
        """The prefix of a version that is held, for a row; it stays in memory until `stop_using`.

        Call it on the engine's thread: it runs the backbone.

        Raises:
            BundleError: When the bundle's tensors are not those of its method.
        """
        if version not in self._loaded:
            prefix = load_prefix(self.backbone, self.content(version))
            with self._lock:
                self._loaded[version] = prefix
                self._loaded_bytes += prefix.num_bytes
                self._num_loads += 1
        with self._lock:
            self._loaded.move_to_end(version)
            self._versions[version].num_users += 1
            self._evict()
            return self._loaded[version]

    def stop_using(self, version: str) -> None:
        """End what `use` began."""
        with self._lock:
            self._versions[version].num_users -= 1

    def content(self, version: str) -> Bundle:
        """The tensors of a version that is held and not loaded as a prefix."""
        with self._lock:
            content = self._versions[version].content
        assert content is not None, "content is read while a request holds its version"
        return content

    def status(self) -> StoreStatus:
        """The store now."""
        with self._lock:
            return StoreStatus(
                num_bundles=sum(entry.is_offered for entry in self._versions.values()),
                num_loaded=len(self._loaded),
                prefix_bytes=self._loaded_bytes,
                num_loads=self._num_loads,
                num_evictions=self._num_evictions,
            )

    def _evict(self) -> None:
        """Drop the least recently used prefixes until the rest fit; the scheduler bounds those in use."""
        if self._loaded_bytes <= self.max_bytes:
            return
        for version in list(self._loaded):
            if self._loaded_bytes <= self.max_bytes:
                return
            entry = self._versions[version]
            # A request that waits can load it again from the tensors that it holds, if it holds any.
            if not entry.num_users and (entry.content is not None or not entry.num_holders):
                self._unload(version)
                self._num_evictions += 1

    def _forget(self, version: str) -> None:
        self._versions.pop(version, None)
        self._unload(version)

    def _unload(self, version: str) -> None:
        if (prefix := self._loaded.pop(version, None)) is not None:
            self._loaded_bytes -= prefix.num_bytes
