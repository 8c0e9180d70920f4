"""How a router's relevance gate treats the questions about a document, and foreign ones.

In: the routing facts of a bundle, questions and foreign texts. Out: `RelevanceGate`: the shares that a server with this
bundle alone would refuse, with `"model": "auto"`.
"""

from collections.abc import Sequence

from ptl_prefix.artifacts.document_report import RefusedTexts, RelevanceGate
from ptl_prefix.artifacts.routing_facts import RoutingFacts
from ptl_prefix.serving.ngram_router import NgramRouter

_NAME = "document"


def measure_gate(
    facts: RoutingFacts | None, own: Sequence[str], foreign: Sequence[str], *, wrong_refusals: float
) -> RelevanceGate | str:
    """The gate, or the reason why a bundle has none, as the end of a sentence about the bundle.

    Args:
        facts: Routing facts of the bundle; `None` for a bundle without them.
        own: Questions about the document.
        foreign: Texts that are not about it, at least one.
        wrong_refusals: Rate at which texts of the bundle may be refused.
    """
    router = NgramRouter(wrong_refusals=wrong_refusals)
    if reasons := router.update({_NAME: facts}):
        return reasons[_NAME]

    def refused(texts: Sequence[str]) -> RefusedTexts:
        return RefusedTexts(refused=sum(router.choose(text).name is None for text in texts), of=len(texts))

    return RelevanceGate(wrong_refusals=wrong_refusals, own=refused(own), foreign=refused(foreign))
