"""The models that a server offers: the base, and one for each bundle of the store.

In: the base, a store, and perhaps a router. Out: the `Target` that a request's `model` names, and the cards of
`/v1/models`. A name of a request is looked up here and never opened.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.document_text import document_state
from ptl_prefix.artifacts.manifest import Manifest
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.errors import PtlPrefixError
from ptl_prefix.serving.api_error import ApiError, invalid
from ptl_prefix.serving.routing import AUTO, RouterLike
from ptl_prefix.serving.served_bundle import NAME_PATTERN, ServedBundle
from ptl_prefix.serving.version_store import StoreStatus

_OWNER = "ptl-prefix"
_NUM_NEAREST = 5


class StoreLike(Protocol):
    """What the HTTP side needs of the store of prefixes."""

    def bundles(self) -> Sequence[ServedBundle]:
        """The newest bundle of each name."""

    def find(self, model: str) -> ServedBundle:
        """The bundle of a `name` or `name@version`; a `PtlPrefixError` with the names there are."""

    def load(self, name: str) -> ServedBundle:
        """Offer a bundle of the folder, also one that was unloaded; a `PtlPrefixError` if it cannot be used."""

    def unload(self, name: str) -> ServedBundle:
        """Stop offering a bundle; running requests keep what they have."""

    def rescan(self) -> bool:
        """Read the folder again; return whether the offered bundles have changed."""

    def status(self) -> StoreStatus:
        """The store now."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """The frozen model without a prefix.

    Args:
        name: Name by which a request asks for it.
        prompter: Encoder of a text as it is.
        decoding: Settings of a request that sets none.
        max_positions: Positions of the context window; `None` if there is no limit.
        is_encoder_decoder: Whether prompt and generated text have a window each.
        token_text: Text of one token id, special tokens included.
        chat_prompter: Encoder of conversations, by the model's chat template; `None` if it has none.
        created: When the model was loaded, in seconds since 1970.
        facts: What the model's card says besides: dtype, bytes, fingerprint.
    """

    name: str
    prompter: Prompter
    decoding: Decoding
    max_positions: int | None
    is_encoder_decoder: bool = False
    token_text: Callable[[int], str]
    chat_prompter: Prompter | None = None
    created: int = 0
    facts: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Target:
    """What answers a request; later changes of the store do not change it.

    Args:
        bundle: The bundle; `None` is the base.
        base: The base.
    """

    bundle: ServedBundle | None
    base: Base

    @property
    def name(self) -> str:
        """Name of the task or base."""
        return self.base.name if self.bundle is None else self.bundle.name

    @property
    def model_id(self) -> str:
        """The name that always means what answered."""
        return self.base.name if self.bundle is None else self.bundle.model_id

    @property
    def prompter(self) -> Prompter:
        """The encoder of sources."""
        return self.base.prompter if self.bundle is None else self.bundle.prompter

    @property
    def decoding(self) -> Decoding:
        """The settings of a request that sets none."""
        return self.base.decoding if self.bundle is None else self.bundle.manifest.decoding

    @property
    def num_positions(self) -> int:
        """Positions of the context window that the prefix occupies."""
        return 0 if self.bundle is None else self.bundle.num_positions

    @property
    def num_rows(self) -> int:
        """Rows of keys and values before the text."""
        return 0 if self.bundle is None else self.bundle.num_rows


class Models:
    """The base and the bundles by their names.

    Args:
        base: The base.
        store: The store of prefixes.
        router: What chooses a task for `auto`; `None` if the server has no router.
    """

    def __init__(self, base: Base, store: StoreLike, router: RouterLike | None = None) -> None:
        self.base = base
        self._store = store
        self._router = router

    def target(self, model: str, text: str) -> Target:
        """What a request's `model` names; `auto` depends on its text.

        Raises:
            ApiError: When it names nothing, or no task is near the text.
        """
        if model == AUTO:
            model = self._choose(text)
        if model == self.base.name:
            return Target(bundle=None, base=self.base)
        try:
            _check_name(model)
            return Target(bundle=self._store.find(model), base=self.base)
        except (ValueError, PtlPrefixError) as error:
            raise _unknown(model, self.names()) from error

    def names(self) -> list[str]:
        """The names that a request may ask for, the base's first."""
        return [self.base.name, *sorted(bundle.name for bundle in self._store.bundles())]

    def cards(self) -> list[dict[str, Any]]:
        """The base's card, and one of each bundle."""
        bundles = sorted(self._store.bundles(), key=lambda bundle: bundle.name)
        auto = [] if self._router is None else [self._auto_card()]
        return [self._base_card(), *auto, *(self._card(bundle) for bundle in bundles)]

    def card(self, model: str) -> dict[str, Any]:
        """The card of one model.

        Raises:
            ApiError: When there is none of this name.
        """
        if model == AUTO and self._router is not None:
            return self._auto_card()
        found = self.target(model, "").bundle
        return self._base_card() if found is None else self._card(found)

    def _choose(self, text: str) -> str:
        if self._router is None:
            raise ApiError(
                404,
                f"`model` must name a task, as this server has no router; it has {_listed(self.names())}.",
                param="model",
                code="model_not_found",
            )
        decision = self._router.choose(text)
        if decision.name is not None:
            return decision.name
        raise invalid(
            decision.refusal,
            param="model",
            code="no_task_is_near",
            nearest=[{"name": one.name, "coverage": one.coverage} for one in decision.scores[:_NUM_NEAREST]],
        )

    def _auto_card(self) -> dict[str, Any]:
        return {
            "id": AUTO,
            "object": "model",
            "created": self.base.created,
            "owned_by": _OWNER,
            "root": AUTO,
            "parent": None,
        }

    def _base_card(self) -> dict[str, Any]:
        base = self.base
        return {
            "id": base.name,
            "object": "model",
            "created": base.created,
            "owned_by": _OWNER,
            "root": base.name,
            "parent": None,
            "max_model_len": base.max_positions,
            **base.facts,
        }

    def _card(self, bundle: ServedBundle) -> dict[str, Any]:
        manifest = bundle.manifest
        return {
            "id": bundle.name,
            "object": "model",
            "created": _seconds(manifest.created),
            "owned_by": _OWNER,
            "root": bundle.model_id,
            "parent": self.base.name,
            "max_model_len": None
            if self.base.max_positions is None
            else self.base.max_positions - bundle.num_positions,
            "method": manifest.method,
            "task": manifest.task,
            "task_version": manifest.task_version,
            "prefix_length": bundle.num_rows,
            "prefix_bytes": bundle.num_bytes,
            "hash": bundle.version,
            "metrics": manifest.metrics,
            "num_labels": None if manifest.label_set is None else len(manifest.label_set),
            "decoding_not_followed": decoding_not_followed(manifest.decoding),
            "document": _document(manifest),
        }


def _document(manifest: Manifest) -> dict[str, Any] | None:
    """The document of a bundle, and whether it is stale; its path is not for clients."""
    if manifest.document_sha256 is None:
        return None
    return {"sha256": manifest.document_sha256, "state": document_state(manifest)}


def decoding_not_followed(decoding: Decoding) -> list[str]:
    """The settings of a bundle's decoding that a continuous batch cannot follow."""
    plain = {"min_new_tokens": 0, "num_beams": 1, "no_repeat_ngram_size": 0}
    return [name for name, value in plain.items() if getattr(decoding, name) != value]


def _check_name(model: str) -> None:
    name, at, version = model.partition("@")
    if not NAME_PATTERN.match(name) or (at and not NAME_PATTERN.match(version)):
        raise ValueError("not a name")


def _unknown(model: str, names: Sequence[str]) -> ApiError:
    shown = repr(model if len(model) <= 130 else f"{model[:130]}…")
    message = f"`model` must be a model of this server, but {shown} is not; it has {_listed(names)}."
    return ApiError(404, message, param="model", code="model_not_found")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:20])
    return shown if len(names) <= 20 else f"{shown} and {len(names) - 20} more, which /v1/models lists"


def _seconds(created: str) -> int:
    """The seconds since 1970 of a manifest's time; 0 if it is none, as a manifest may hold any text."""
    try:
        return max(int(datetime.fromisoformat(created).timestamp()), 0)
    except (ValueError, OverflowError, OSError):
        return 0
