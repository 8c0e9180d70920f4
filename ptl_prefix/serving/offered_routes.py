"""Keeps a router's tasks those that the server offers.

In: a store of bundles and a router. Out: the router, which knows the routing facts of every bundle that is offered and
has some; it is updated when bundles come, change and go.
"""

import threading
from typing import Any

from ptl_prefix.artifacts.bundle import read_routing
from ptl_prefix.artifacts.routing_facts import RoutingFacts
from ptl_prefix.errors import BundleError
from ptl_prefix.serving.prefix_store import PrefixStore
from ptl_prefix.serving.router import RouteDecision, Router


class OfferedRoutes:
    """A router over the bundles of a store.

    Args:
        store: The store; its `on_change` is taken.
        router: The router.
    """

    def __init__(self, store: PrefixStore, router: Router[Any]) -> None:
        self._store = store
        self._router = router
        self._versions: dict[str, str] = {}
        self._updating = threading.Lock()
        self.reasons: dict[str, str] = {}
        """Why no text is routed to a bundle that is offered, by its name, as the end of a sentence."""
        store.on_change = self.update
        self.update()

    def update(self) -> None:
        """Read the facts of bundles that are new or have changed, and forget those that are gone."""
        with self._updating:
            offered = {bundle.name: bundle.version for bundle in self._store.bundles()}
            gone = self._versions.keys() - offered.keys()
            changed = [name for name, version in offered.items() if self._versions.get(name) != version]
            facts: dict[str, RoutingFacts | None] = {}
            problems: dict[str, str] = {}
            for name in changed:
                try:
                    facts[name] = read_routing(self._store.folder_of(offered[name]))
                except BundleError as error:  # it is served by its name all the same
                    facts[name], problems[name] = None, f"has damaged routing facts: {error}"
            reasons = self._router.update(facts, gone) | problems
            kept = {name: why for name, why in self.reasons.items() if name in offered and name not in facts}
            self._versions, self.reasons = offered, kept | reasons

    def choose(self, text: str) -> RouteDecision:
        """The task of a text."""
        return self._router.choose(text)
