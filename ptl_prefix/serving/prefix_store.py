"""The bundles that the server offers, by the names of their folders.

In: a folder of bundles, each under the name of its task. Out: `ServedBundle`s by name. What a folder holds is read
anew by `rescan`: a new, changed or missing bundle changes what is offered, not what a request holds.
"""

from collections.abc import Callable
from pathlib import Path

from ptl_prefix.artifacts.bundle import check_backbone
from ptl_prefix.artifacts.bundle_folder import find_bundle
from ptl_prefix.artifacts.manifest import MANIFEST_FILE, Manifest, read_manifest
from ptl_prefix.artifacts.paged_prefix import bundle_version
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.errors import BundleError, PtlPrefixError, RequestError
from ptl_prefix.methods.restore import method_class
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
    """

    def __init__(self, folder: Path, backbone: Backbone, *, max_bytes: int) -> None:
        super().__init__(backbone, max_bytes=max_bytes)
        self.folder = folder
        self.problems: dict[str, str] = {}
        """Why a subfolder is not offered, by its name."""
        self.on_change: Callable[[], None] = lambda: None
        """Called after the offered bundles have changed."""
        self._names: dict[str, ServedBundle] = {}
        self._hidden: set[str] = set()
        self._stamps: dict[str, tuple[int, ...]] = {}
        self._prompters: dict[PromptFormat, Prompter] = {}

    def rescan(self) -> bool:
        """Read the folder again; return whether the offered bundles have changed.

        Raises:
            BundleError: When the folder cannot be read.
        """
        try:
            found = sorted(path for path in self.folder.iterdir() if path.is_dir())
        except OSError as error:
            raise BundleError(
                f"`bundles` must be a readable folder of bundles, but '{self.folder}' is not ({error.strerror})."
            ) from error
        with self._lock:
            before = {name: bundle.version for name, bundle in self._names.items()}
            for gone in self._names.keys() - {path.name for path in found}:
                self._withdraw_name(gone)
            self.problems = {name: why for name, why in self.problems.items() if (self.folder / name).is_dir()}
            for path in found:
                if path.name not in self._hidden:
                    self._offer_safely(path)
            changed = before != {name: bundle.version for name, bundle in self._names.items()}
        if changed:
            self.on_change()
        return changed

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

    def _offer_safely(self, path: Path) -> None:
        """Offer the newest version of a subfolder, or note why it cannot be."""
        try:
            self._offer(path)
            self.problems.pop(path.name, None)
        except (PtlPrefixError, OSError) as error:
            self.problems[path.name] = str(error)
            self._stamps.pop(path.name, None)
            self._withdraw_name(path.name)

    def _offer(self, path: Path) -> None:
        if not NAME_PATTERN.match(path.name):
            raise BundleError(f"The name of a bundle's folder must match {NAME_PATTERN.pattern}; rename it.")
        folder = find_bundle(path)
        file = folder / MANIFEST_FILE
        found = file.lstat()
        stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
        if path.name in self._names and self._stamps.get(path.name) == stamp:
            return
        manifest = read_manifest(folder)
        version = bundle_version(folder)
        if path.name in self._names and self._names[path.name].version == version:
            self._stamps[path.name] = stamp
            return
        bundle = self._served(path.name, version, manifest)
        self._withdraw_name(path.name)
        self.offer(bundle, folder)
        self._names[path.name] = bundle
        self._stamps[path.name] = stamp

    def _served(self, name: str, version: str, manifest: Manifest) -> ServedBundle:
        check_backbone(manifest, self.backbone.identity_like(manifest.backbone))
        if f"torch.{manifest.dtype}" != str(self.backbone.dtype):
            raise BundleError(
                f"A bundle must be of the server's dtype, {self.backbone.precision}, but was trained in "
                f"{manifest.dtype}; serve it with dtype={manifest.dtype}."
            )
        kind = method_class(manifest.method)
        lengths = [manifest.settings[key] for key in _LENGTHS if key in manifest.settings]
        num_rows = lengths[0] if kind.mixes_rows and lengths else 0
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
        if bundle is None or any(other.version == bundle.version for other in self._names.values()):
            return
        self.withdraw(bundle.version)

    def _unknown(self, model: str) -> RequestError:
        names = ", ".join(sorted(self._names)) or "none"
        return RequestError(
            f"A model must be one that the server offers, but {model!r:.100} is not; it offers: {names}."
        )
