"""The rows of all running requests, in one batch, or in one batch per bundle that changes the weights.

In: requests that join, read, step and leave. Out: logits. Prefixes of any number of bundles share one batch. A bundle
whose method changes the backbone while it is attached (LoRA, IA3, adapters) has a batch of its own, and is attached
while that batch runs.
"""

from collections.abc import Sequence

from torch import Tensor

from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import prompt_batch
from ptl_prefix.backbones.row_batch import RowBatch
from ptl_prefix.methods.restore import Adaptation, restore
from ptl_prefix.serving.generation import Generation
from ptl_prefix.serving.prefix_attention import attention_on_prefix
from ptl_prefix.serving.prefix_loading import LoadedPrefix, conditioned_prefix
from ptl_prefix.serving.prefix_store import PrefixStore

_EXPECTED_COLUMNS = 256
"""Most text columns that are allocated for a row before it needs them."""


class RowGroups:
    """Batches of rows by group; `None` is the group of prefixes and the bare base.

    Args:
        backbone: The backbone.
        store: The bundles.
    """

    def __init__(self, backbone: Backbone, store: PrefixStore) -> None:
        self._backbone = backbone
        self._store = store
        self._batches: dict[str | None, RowBatch] = {}
        self._attached: tuple[str, Adaptation] | None = None
        self._padding = backbone.padding(backbone.prompter(PromptFormat()))

    @property
    def num_bytes(self) -> int:
        """Memory of all keys and values."""
        return sum(batch.num_bytes for batch in list(self._batches.values()))

    def bytes_for(self, rows: int, region: int, columns: int) -> int:
        """Memory of a batch with this many rows, prefix columns and text columns."""
        return RowBatch.bytes_for(self._backbone, rows=rows, region=region, columns=columns)

    def join(self, generation: Generation) -> None:
        """Give a request a row.

        Raises:
            BundleError: When its bundle cannot be used.
        """
        self._attach(generation.group)
        prefix = self._prefix_of(generation)
        batch = self._batches.get(generation.group) or self._batches.setdefault(
            generation.group, RowBatch(self._backbone)
        )
        start = generation.start_ids
        num_columns = min(len(start) + generation.request.sampling.max_new_tokens, len(start) + _EXPECTED_COLUMNS)
        row = batch.join(
            None if prefix is None else prefix.states,
            prefix_from=len(start) - 1 if prefix is not None and prefix.is_infix else 0,
            num_columns=num_columns,
        )
        generation.row = row
        if generation.source_ids is not None:
            source = prompt_batch([generation.source_ids], self._padding)
            source = source.replace(prompt_rows=None if prefix is None else prefix.prompt_rows)
            batch.encode(row, source.to(self._backbone.device), start)

    def leave(self, generation: Generation) -> None:
        """Free a request's row, if it has one."""
        if generation.uses_prefix:
            self._store.stop_using(str(generation.request.version))
            generation.uses_prefix = False
        if generation.row is None:
            return
        batch = self._batches[generation.group]
        batch.leave(generation.row)
        generation.row = None
        if generation.group is not None and not batch.num_rows:
            batch.close()
            del self._batches[generation.group]
            if self._attached is not None and self._attached[0] == generation.group:
                self._attach(None)

    def read(self, group: str | None, reading: Sequence[tuple[Generation, int]]) -> None:
        """Read the next prompt tokens of some requests of a group."""
        if not reading:
            return
        self._attach(group)
        left = dict(reading)
        while left:
            chunks = []
            for generation, count in left.items():
                row, ids = generation.row, generation.text_ids
                assert row is not None
                # What comes before an infix and what comes after it are read apart.
                end = row.length + count
                if row.length < row.prefix_from < end:
                    end = row.prefix_from
                chunks.append((generation, row, ids[row.length : end]))
            self._batches[group].read([(row, chunk) for _, row, chunk in chunks])
            left = {one: left[one] - len(chunk) for one, _, chunk in chunks if left[one] > len(chunk)}

    def step(self, group: str | None, stepping: Sequence[Generation]) -> Tensor:
        """The logits of the next token of some requests of a group, (requests, vocabulary)."""
        self._attach(group)
        tokens = []
        for generation in stepping:
            assert generation.row is not None
            tokens.append((generation.row, generation.text_ids[generation.row.length]))
        return self._batches[group].step(tokens)

    def attention_on_prefix(self, version: str, prompt_ids: Sequence[int]) -> dict[str, list[float]]:
        """How much a prompt attends to the prefix of a version that is held; see `prefix_attention.py`."""
        self._attach(None)
        prefix = self._store.use(version)
        try:
            return attention_on_prefix(self._backbone, prefix, prompt_ids, self._padding)
        finally:
            self._store.stop_using(version)

    def detach(self) -> None:
        """Give the backbone back as it is without a bundle; the next round of a group attaches its bundle again."""
        self._attach(None)

    def close(self) -> None:
        """Free everything, and give the backbone back."""
        for batch in self._batches.values():
            batch.close()
        self._batches.clear()
        self._attach(None)

    def _prefix_of(self, generation: Generation) -> LoadedPrefix | None:
        version = generation.request.version
        if version is None:
            return None
        if self._attached is None:
            prefix = self._store.use(version)
            generation.uses_prefix = True
            return prefix
        return conditioned_prefix(self._attached[1])

    def _attach(self, group: str | None) -> None:
        """Attach the bundle of a group, and detach that of another one."""
        if (None if self._attached is None else self._attached[0]) == group:
            return
        if self._attached is not None:
            self._attached[1].detach()
            self._attached = None
        if group is not None:
            self._attached = (group, restore(self._backbone, self._store.content(group)))
            # Full fine-tuning and BitFit override weights when they condition a batch, not when they are attached.
            conditioned_prefix(self._attached[1])
