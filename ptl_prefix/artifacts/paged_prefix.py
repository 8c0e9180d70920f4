"""A prefix as vLLM needs it: rows of keys and values for its pages, and how a request names them.

In: a bundle. Out: `PagedPrefix`; or the reason why vLLM would compute something else than was trained. The pages hold
one row of keys and values for each position of a text in each layer, so a prompt starts with one placeholder token for
each position of the prefix, and the prefix's rows are put where theirs would be. `PrefixLabel` says which prefix that
is. The gateway writes what the connector inside vLLM reads; both have it from here.
"""

import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ptl_prefix.artifacts.bundle import Bundle
from ptl_prefix.artifacts.manifest import Manifest, Site

SITE: Site = "decoder_self"
PLACEHOLDER_ID = 0
"""The token of every position of a prefix. Its own keys and values are never computed; any id would do."""

FIRST_VLLM, NEXT_VLLM = (0, 32), (0, 33)
"""The versions of vLLM whose connector interface this is: from the first, and before the next."""

_PARAMETER = "ptl_prefix"
_SALT = "ptl-prefix:"
_VERSION = re.compile(r"[0-9a-f]{16}\Z")


def vllm_version_problem(version: str) -> str | None:
    """Why a version of vLLM cannot serve prefixes; `None` if it can. The interface changes between minor versions."""
    match = re.match(r"(\d+)\.(\d+)", version)
    if match and FIRST_VLLM <= (int(match[1]), int(match[2])) < NEXT_VLLM:
        return None
    first, following = (".".join(map(str, numbers)) for numbers in (FIRST_VLLM, NEXT_VLLM))
    return (
        f"vLLM must be of a version from {first} and before {following}, whose connector interface is the one that was "
        f"tested, but is {version[:40]!r}; install such a version."
    )


@dataclass(frozen=True)
class PrefixLabel:
    """How a request names its prefix.

    Args:
        version: Version of the bundle, as `Bundle.version`.
    """

    version: str

    @property
    def kv_transfer_params(self) -> dict[str, Any]:
        """What the engine hands to its connector."""
        return {_PARAMETER: self.version}

    @property
    def cache_salt(self) -> str:
        """What keeps the cached pages of two prefixes apart, as their placeholders are the same tokens."""
        return _SALT + self.version

    @staticmethod
    def of(kv_transfer_params: Any, cache_salt: str | None) -> "PrefixLabel | None":
        """The label of a request as the engine received it; `None` if the request is for the bare model.

        Raises:
            ValueError: When the two do not name the same prefix: pages of one could be taken for those of another.
        """
        named = kv_transfer_params.get(_PARAMETER) if isinstance(kv_transfer_params, dict) else None
        is_salted = cache_salt is not None and cache_salt.startswith(_SALT)
        if named is None and not is_salted:
            return None
        if not isinstance(named, str) or not _VERSION.match(named) or cache_salt != _SALT + named:
            raise ValueError(
                f"A request must name its prefix by version in `kv_transfer_params` and `cache_salt` alike, but names "
                f"{named!r:.80} and {cache_salt!r:.80}; send it through the gateway."
            )
        return PrefixLabel(named)


@dataclass(frozen=True, eq=False)
class PagedPrefix:
    """The rows of a prefix.

    Args:
        keys: Keys after the rotation of positions, (layers, positions, kv_heads, head_dim).
        values: Values, of the same shape.
    """

    keys: Tensor
    values: Tensor

    @property
    def num_bytes(self) -> int:
        """Memory of keys and values."""
        return self.keys.nbytes + self.values.nbytes

    def head_slice(self, *, rank: int, num_ranks: int) -> "PagedPrefix":
        """The heads that one of several tensor-parallel ranks computes.

        With fewer heads than ranks, neighbouring ranks share a head.

        Raises:
            ValueError: When heads and ranks do not divide each other.
        """
        num_heads = self.keys.shape[2]
        if num_heads % num_ranks and num_ranks % num_heads:
            raise ValueError(
                f"The key-value heads must be a multiple or a divisor of the tensor-parallel ranks, but there are "
                f"{num_heads} heads and {num_ranks} ranks."
            )
        num_local = max(1, num_heads // num_ranks)
        first = rank * num_heads // num_ranks
        local = slice(first, first + num_local)
        return PagedPrefix(self.keys[:, :, local], self.values[:, :, local])


def paged_problem(manifest: Manifest) -> str | None:
    """Why a bundle cannot be served from pages: what must hold, and what was found; `None` if it can."""
    settings = manifest.settings
    facts = {
        f"of `prefix_tuning`, but is of `{manifest.method}`": manifest.method != "prefix_tuning",
        "of a decoder-only backbone, but its backbone has an encoder": set(manifest.geometry) != {SITE},
        f"of the position law `shifted`, but is `{manifest.position_law}`": manifest.position_law != "shifted",
        "at every attention layer, but is at some only": settings.get("layers") is not None,
        "at the self-attention of the decoder, but is elsewhere": settings.get("sites") not in (None, [SITE]),
        f"of an unquantised backbone, but was trained on {manifest.backbone.quantization}": (
            manifest.backbone.quantization is not None
        ),
    }
    wrong = next((fact for fact, is_wrong in facts.items() if is_wrong), None)
    if wrong is None:
        return None
    return f"A bundle that vLLM serves must be {wrong}; serve it with engine=ptl_prefix."


def paged_prefix(bundle: Bundle) -> PagedPrefix:
    """The rows of a bundle.

    Raises:
        ValueError: When the bundle cannot be served from pages, or its tensors are not those of its manifest.
    """
    manifest = bundle.manifest
    if (problem := paged_problem(manifest)) is not None:
        raise ValueError(problem)
    site = manifest.geometry[SITE]
    wanted = (site["num_layers"], site["num_kv_heads"], manifest.settings.get("prefix_length"), site["head_dim"])
    rows = []
    for name in (f"{SITE}.keys", f"{SITE}.values"):
        found = tuple(bundle.tensors[name].shape) if name in bundle.tensors else None
        if found != wanted:
            raise ValueError(f"A bundle's `{name}` must have the shape {wanted} of its manifest, but has {found}.")
        rows.append(bundle.tensors[name].transpose(1, 2).contiguous())
    return PagedPrefix(*rows)
