"""What a bundle must agree with before its method is built: its own tensors, and the backbone.

In: a bundle, whose manifest may come from anyone, and a backbone. Out: `BundleError`, before memory is allocated for
sizes that the manifest only claims.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ptl_prefix.artifacts.bundle import Bundle
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.errors import BundleError

_SIZES = ("prefix_length", "prompt_length", "bottleneck_size", "rank")
"""Settings that are a dimension of the tensors of their method."""


def check_bundle(bundle: Bundle, backbone: Backbone) -> None:
    """Refuse a bundle whose settings are not of its tensors, or whose geometry is not that of the backbone.

    Raises:
        BundleError: The message says in what they differ.
    """
    manifest = bundle.manifest
    dimensions = {size for info in manifest.tensors.values() for size in info.shape}
    for name, size in _sizes_in(manifest.settings):
        if not isinstance(size, int) or isinstance(size, bool) or size not in dimensions:
            raise BundleError(
                f"A bundle must have the settings and tensors of its method, but no tensor has the dimension `{name}`, "
                f"which is {size!r:.40}; export it again."
            )
    own = {site: dataclasses.asdict(geometry) for site, geometry in backbone.geometry.items()}
    if manifest.geometry != own:
        raise _refusal(f"its geometry is that of the backbone, {own}", f"it is {manifest.geometry!s:.300}")


def check_restored(bundle: Bundle, *, position_law: str, stop_ids: tuple[int, ...]) -> None:
    """Refuse a bundle whose method or prompt format, once they are built, are not what its manifest says.

    Raises:
        BundleError: The message says in what they differ.
    """
    manifest = bundle.manifest
    if position_law != manifest.position_law:
        raise _refusal(f"`position_law` is that of its method, {position_law}", f"it is {manifest.position_law}")
    if stop_ids != manifest.stop_ids:
        raise _refusal(f"`stop_ids` are those of its prompt format, {stop_ids}", f"they are {manifest.stop_ids!s:.100}")


def _sizes_in(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if name in _SIZES:
            yield name, value
        elif isinstance(value, Mapping):
            yield from _sizes_in(value)


def _refusal(law: str, fact: str) -> BundleError:
    return BundleError(f"A bundle must agree with itself and its backbone: {law}, but {fact}; export it again.")
