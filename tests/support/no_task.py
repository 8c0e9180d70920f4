"""A task without examples, for tests that export a bundle but train on no task."""

from pathlib import Path

import datasets

from ptl_prefix.artifacts.bundle import Bundle
from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.artifacts.routing_facts import RoutingFacts
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.data.task import Split, Task
from ptl_prefix.methods.method import Method
from ptl_prefix.settings import defaults_of
from ptl_prefix.training.export import export_bundle


class NoTask(Task):
    """A task without examples; it has the attributes that a bundle stores."""

    name, version, licence, metrics = "no_task", "1", "", ()
    prompt = PromptFormat()

    def problems(self) -> list[str]:
        """There are none."""
        return []

    def examples(self, split: Split) -> datasets.Dataset:
        """There are none."""
        raise NotImplementedError

    def fingerprint(self, split: Split) -> str:
        """Always the same."""
        return "none"


def export_untasked(
    method: Method, backbone: Backbone, folder: Path, *, routing: RoutingFacts | None = None, **decoding: object
) -> Bundle:
    """Write the bundle of a method as it stands; it decodes five tokens, greedily."""
    settings = {**defaults_of("generation/greedy"), "max_new_tokens": 5, **decoding}
    return export_bundle(
        folder,
        backbone=backbone,
        method=method,
        task=NoTask(),
        prompter=backbone.prompter(NoTask.prompt),
        decoding=Decoding(**settings),
        metrics={},
        routing=routing,
    )
