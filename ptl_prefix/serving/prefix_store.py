"""The bundles that the server offers, by the names of their folders.

In: a folder of bundles, each under the name of its task. Out: `ServedBundle`s by name. What a folder holds is read
anew by `rescan`: a new, changed or missing bundle changes what is offered, not what a request holds.

Thousands of bundles are cheap: the first scan reads manifests, and of the tensors the size of their file. A bundle
whose files have the same inode, size and times as at the last scan is not read again, whether it is offered or refused;
if they have others, the tensors' hash is compared, too. The folder is read while requests go on.
"""

import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ptl_prefix.artifacts.bundle import check_backbone
from ptl_prefix.artifacts.bundle_folder import find_bundle
from ptl_prefix.artifacts.manifest import Manifest, read_versioned_manifest
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.artifacts.tensors_file import check_tensors_file
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.errors import BundleError, PtlPrefixError, RequestError
from ptl_prefix.methods.restore import method_class
from ptl_prefix.serving.bundle_scan import ScannedBundle, Stamp, may_pass, stamp_of
from ptl_prefix.serving.served_bundle import NAME_PATTERN, ServedBundle
from ptl_prefix.serving.version_store import VersionStore

_LENGTHS = ("prefix_length", "prompt_length")
"""Settings that say how many rows a method puts before the text."""


class PrefixStore(VersionStore):
    """Bundles by name. Its functions may be called from any thread.

    Args:
        folder: Folder whose subfolders are bundles or run folders; their names are the tasks' names.
        backbone: The frozen base, which each bundle must be of.
        max_bytes: Memory for prefixes.
        refresh: Brings the folder up to date before it is read.
    """

    def __init__(
        self, folder: Path, backbone: Backbone, *, max_bytes: int, refresh: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(backbone, max_bytes=max_bytes)
        self.folder, self._refresh = folder, refresh
        self.problems: dict[str, str] = {}
        """Why a subfolder is not offered, by its name."""
        self.on_change: Callable[[], None] = lambda: None
        """Called after the offered bundles have changed."""
        self._names: dict[str, ServedBundle] = {}
        self._num_names: Counter[str] = Counter()
        self._hidden: set[str] = set()
        self._folders: dict[str, Path] = {}
        self._stamps: dict[str, Stamp] = {}
        self._prompters: dict[PromptFormat, Prompter] = {}
        self._scanning = threading.Lock()

    def rescan(self) -> bool:
        """Read the folder again; return whether the offered bundles have changed.

        Raises:
            BundleError: When the folder cannot be read.
        """
        with self._scanning:
            self._refresh()
            changed = self._apply(*self._scan())
        if changed:
            self.on_change()
        return changed

    def _scan(self) -> tuple[set[str], dict[str, ScannedBundle]]:
        """The names of all subfolders, and what is in those that have changed."""
        try:
            with os.scandir(self.folder) as entries:
                names = {entry.name for entry in entries if entry.is_dir()}
        except OSError as error:
            raise BundleError(
                f"`bundles` must be a readable folder of bundles, but '{self.folder}' is not ({error.strerror})."
            ) from error
        with self._lock:
            known, hidden = dict(self._stamps), set(self._hidden)
        scanned = {name: self._read(name, known.get(name)) for name in sorted(names - hidden)}
        return names, {name: found for name, found in scanned.items() if found is not None}

    def _apply(self, names: set[str], scanned: Mapping[str, ScannedBundle]) -> bool:
        """Offer what a scan found; return whether the offered bundles have changed."""
        with self._lock:
            before = {name: bundle.version for name, bundle in self._names.items()}
            for gone in (self._names.keys() | self.problems.keys() | self._stamps.keys()) - names:
                self._withdraw_name(gone)
            for name, found in scanned.items():
                if name not in self._hidden:
                    self._take(name, found)
            return before != {name: bundle.version for name, bundle in self._names.items()}

    def _take(self, name: str, found: ScannedBundle) -> None:
        old, new = self._names.get(name), found.bundle
        if old is None or new is None or old.version != new.version:
            self._withdraw_name(name)
            if new is None:
                self.problems[name] = found.problem
            else:
                self.offer(new, found.folder)
                self._names[name], self._folders[name] = new, found.folder
                self._num_names[new.version] += 1
        if found.stamp is not None:
            self._stamps[name] = found.stamp

    def load(self, name: str) -> ServedBundle:
        """Offer a bundle of the folder, also one that was unloaded.

        Raises:
            RequestError: When the folder has no bundle of this name, or it cannot be used.
        """
        if NAME_PATTERN.match(name):
            with self._lock:
                self._hidden.discard(name)
            self.rescan()
        with self._lock:
            if name in self._names:
                return self._names[name]
            reason = self.problems.get(name, "there is no such folder")
        raise RequestError(
            f"A bundle to load must be in the server's folder, but {name!r:.80} cannot be used: {reason}."
        )

    def unload(self, name: str) -> ServedBundle:
        """Stop offering a bundle; its memory is free after the last request that holds it.

        Raises:
            RequestError: When no bundle of this name is offered.
        """
        with self._lock:
            if name not in self._names:
                raise self._unknown(name)
            bundle = self._names[name]
            self._hidden.add(name)
            self._withdraw_name(name)
        self.on_change()
        return bundle

    def bundles(self) -> list[ServedBundle]:
        """The offered bundles, by name."""
        with self._lock:
            return [self._names[name] for name in sorted(self._names)]

    def find(self, model: str) -> ServedBundle:
        """The bundle that `name` or `name@version` means now.

        Raises:
            RequestError: When there is none.
        """
        name, _, wanted = model.partition("@")
        with self._lock:
            bundle = self._names.get(name)
            if bundle is None or wanted not in ("", bundle.version):
                raise self._unknown(model)
            return bundle

    def _read(self, name: str, known: Stamp | None) -> ScannedBundle | None:
        """What is in a subfolder; `None` if its files are those that `known` was made of."""
        stamp = None
        try:
            if not NAME_PATTERN.match(name):
                raise BundleError(f"The name of a bundle's folder must match {NAME_PATTERN.pattern}; rename it.")
            folder = find_bundle(self.folder / name)
            stamp = stamp_of(folder)
            if stamp == known:
                return None
            manifest, version = read_versioned_manifest(folder)
            check_tensors_file(folder, manifest, reads_content=known is not None)
            return ScannedBundle(stamp, self._served(name, version, manifest), folder)
        except (PtlPrefixError, OSError) as error:
            return ScannedBundle(None if may_pass(error) else stamp, problem=str(error))

    def _served(self, name: str, version: str, manifest: Manifest) -> ServedBundle:
        check_backbone(manifest, self.backbone.identity_like(manifest.backbone))
        if f"torch.{manifest.dtype}" != str(self.backbone.dtype):
            raise BundleError(
                f"A bundle must be of the server's dtype, {self.backbone.precision}, but was trained in "
                f"{manifest.dtype}; serve it with dtype={manifest.dtype}."
            )
        kind = method_class(manifest.method)
        num_rows = _num_rows(manifest.method, manifest.settings)
        column_bytes = sum(2 * site.num_layers * site.kv_width for site in self.backbone.geometry.values())
        return ServedBundle(
            name=name,
            version=version,
            manifest=manifest,
            prompter=self._prompter(manifest.prompt),
            num_positions=0 if manifest.position_law == "unshifted" else num_rows,
            num_rows=num_rows,
            num_bytes=num_rows * column_bytes * self.backbone.dtype.itemsize,
            is_exclusive=not kind.mixes_rows,
        )

    def _prompter(self, prompt: PromptFormat) -> Prompter:
        if prompt not in self._prompters:
            try:
                self._prompters[prompt] = self.backbone.prompter(prompt)
            except ValueError as error:
                raise BundleError(
                    f"A bundle must have a prompt format that its backbone can read, but: {error}"
                ) from error
        return self._prompters[prompt]

    def _withdraw_name(self, name: str) -> None:
        """Stop offering a name; forget its version if nothing holds it and no other name has it."""
        bundle = self._names.pop(name, None)
        self._stamps.pop(name, None)
        self.problems.pop(name, None)
        self._folders.pop(name, None)
        if bundle is None:
            return
        self._num_names[bundle.version] -= 1
        if not self._num_names[bundle.version]:
            del self._num_names[bundle.version]
            self.withdraw(bundle.version)
        else:  # it may have been offered from the folder that is gone
            other = next(name for name, one in self._names.items() if one.version == bundle.version)
            self.offer(bundle, self._folders[other])

    def _unknown(self, model: str) -> RequestError:
        names = ", ".join(sorted(self._names)) or "none"
        return RequestError(
            f"A model must be one that the server offers, but {model!r:.100} is not; it offers: {names}."
        )


def _num_rows(method: str, settings: Mapping[str, Any]) -> int:
    """Rows of keys and values that attention reads before the text; of a combination, those of its parts."""
    parts = settings.get("parts", {}).values()
    if parts:
        return sum(_num_rows(part["kind"], part["settings"]) for part in parts)
    lengths = [settings[key] for key in _LENGTHS if key in settings]
    return lengths[0] if method_class(method).mixes_rows and lengths else 0
