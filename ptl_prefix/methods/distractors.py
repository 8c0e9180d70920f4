"""Prefixes of other documents that stand beside a prefix in some steps of its training.

In: exported prefixes, and the keys and values that are trained. Out: the keys and values of all of them in a drawn
order, as `ptl-prefix join` would write them. A prefix that was only ever alone with its text is lost among others; one
that has seen others in the slot is not (Eyuboglu et al., 2025, and later work on joined caches).

Every draw is from torch's random state, which a checkpoint holds: a resumed run draws what it would have drawn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ptl_prefix.artifacts.bundle import Bundle, read_bundle
from ptl_prefix.artifacts.bundle_folder import find_bundle
from ptl_prefix.artifacts.manifest import Manifest, check_backbone, read_manifest
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.errors import BundleError, HubError
from ptl_prefix.methods.prefix_joining import SitePrefix, bundle_prefix, stand_together
from ptl_prefix.methods.prefix_start import bundle_problems


@dataclass(frozen=True, kw_only=True)
class DistractorSettings:
    """Which prefixes stand beside a prefix in training, and how often.

    Args:
        bundles: Bundles of the other prefixes, or run folders.
        max_at_once: Most of them in one forward pass.
        p_isolated: Probability that a forward pass has none of them.
    """

    bundles: Sequence[str]
    max_at_once: int
    p_isolated: float

    def most_positions(self) -> int:
        """The most positions that they occupy in one forward pass.

        Raises:
            BundleError: When a bundle is missing or damaged.
        """
        lengths = [int(read_manifest(find_bundle(one)).settings["prefix_length"]) for one in self.bundles]
        return sum(sorted(lengths, reverse=True)[: self.max_at_once])


class Distractors:
    """The other prefixes, loaded.

    Args:
        settings: Which ones, and how often.
        backbone: Backbone of all prefixes.
        layers: Indices of the layers that have a prefix, by site.
        is_shifted: Whether text positions start after the prefixes.
    """

    def __init__(
        self,
        settings: DistractorSettings,
        backbone: Backbone,
        layers: Mapping[str, Sequence[int]],
        *,
        is_shifted: bool,
    ) -> None:
        self._settings, self._backbone, self._layers, self._is_shifted = settings, backbone, layers, is_shifted
        self._prefixes = [_loaded(read_bundle(one), backbone, layers) for one in settings.bundles]

    def draw(self, own: SitePrefix) -> SitePrefix:
        """The prefix alone, or among some of the others, in a drawn order."""
        if float(torch.rand(())) < self._settings.p_isolated:
            return own
        most = min(self._settings.max_at_once, len(self._prefixes))
        number = 1 + int(torch.randint(most, ()))
        chosen = [self._prefixes[index] for index in torch.randperm(len(self._prefixes))[:number].tolist()]
        place = int(torch.randint(number + 1, ()))
        return stand_together(
            [*chosen[:place], own, *chosen[place:]], self._backbone, self._layers, is_shifted=self._is_shifted
        )


def _loaded(bundle: Bundle, backbone: Backbone, layers: Mapping[str, Sequence[int]]) -> SitePrefix:
    check_backbone(bundle.manifest, backbone.identity)
    return bundle_prefix(bundle, backbone, layers)


def distractor_problems(
    settings: DistractorSettings,
    backbone: Backbone,
    *,
    sites: Sequence[str],
    layers: Sequence[int] | None,
    position_law: str,
) -> list[str]:
    """Why prefixes cannot stand beside one of these sites and layers; no tensors are read."""
    if not settings.bundles:
        return []
    if position_law == "infix":
        return [
            "`method.distractors` must be empty with `method.position_law=infix`, as they stand before the prompt, but "
            f"is {list(settings.bundles)}."
        ]
    problems: list[str] = []
    for folder in settings.bundles:
        try:
            found = bundle_problems(folder, backbone.geometry, sites, layers)
            found = found or _law_problems(read_manifest(find_bundle(folder)), folder, position_law)
        except (BundleError, HubError) as error:
            found = [f"`method.distractors`: {error}"]
        problems += [problem.replace("`method.init_bundle`", "`method.distractors`") for problem in found]
    return problems


def _law_problems(manifest: Manifest, folder: str, position_law: str) -> list[str]:
    if manifest.position_law == position_law:
        return []
    return [
        f"`method.distractors` must have the position law {position_law}, but {folder} has {manifest.position_law}; "
        "train both alike."
    ]
