"""A bundle as the server knows it: its name, its version, and how to turn a source into a prompt.

In: a bundle's manifest and the backbone's prompter. Out: `ServedBundle`, which requests are bound to.
"""

import re
from dataclasses import dataclass
from functools import cached_property

from ptl_prefix.artifacts.manifest import Manifest
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.serving.label_trie import LabelTrie, label_ids

NAME_PATTERN = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
"""A name that cannot be a path: it is looked up, never opened."""


@dataclass(frozen=True, eq=False)
class ServedBundle:
    """One version of a bundle in the store.

    Args:
        name: Name of the task on this server: the name of the bundle's folder, which matches `NAME_PATTERN`.
        version: Hash of the bundle's content, 16 hexadecimal digits; `name@version` names this bundle for ever.
        manifest: The bundle's manifest.
        prompter: Encoder of sources in the bundle's prompt format.
        num_positions: Positions that the prefix occupies in the context window.
        num_rows: Rows of keys and values that each attention layer attends to before the text.
        num_bytes: Memory of the prefix while it is loaded.
        is_exclusive: Whether the method does more than put rows before the text (LoRA, IA3, adapters, prefixes outside
            the softmax), so that its requests cannot share a forward pass with those of other bundles.
    """

    name: str
    version: str
    manifest: Manifest
    prompter: Prompter
    num_positions: int
    num_rows: int
    num_bytes: int
    is_exclusive: bool = False

    @property
    def model_id(self) -> str:
        """The name that always means this version."""
        return f"{self.name}@{self.version}"

    @cached_property
    def labels(self) -> LabelTrie | None:
        """The labels of a classification task; `None` for a task of free text. Made when they are first asked for."""
        labels = self.manifest.label_set
        if not labels:
            return None
        targets = ([*ids, *self.prompter.after_ids] for ids in self.prompter.tokenize_targets(labels))
        return LabelTrie(label_ids(target, self.prompter.stop_ids) for target in targets)
