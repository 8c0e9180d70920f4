"""The rows of all running requests: in one batch, or in one for each bundle that does more than put rows before a text.

In: requests that join, read, step and leave. Out: logits. Prefixes of any number of bundles share one batch. A bundle
whose method does more (LoRA, IA3, adapters, prefixes outside the softmax) has a batch of its own, and is attached while
that batch runs.
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
        self._group_prefixes: dict[str, LoadedPrefix] = {}
        """What the bundle of a group puts into the slots, as long as the group has rows."""
        self._padding = backbone.padding(backbone.prompter(PromptFormat()))
        self._made_up = prompt_batch([[backbone.pad_id]], self._padding).to(backbone.device)

    @property
    def num_bytes(self) -> int:
        """Memory of all keys and values."""
        return sum(batch.num_bytes for batch in list(self._batches.values()))

    def bytes_for(self, rows: int, region: int, columns: int) -> int:
        """Memory of a batch with this many rows, prefix columns and text columns."""
        return RowBatch.bytes_for(self._backbone, rows=rows, region=region, columns=columns)

    def reserve(self, joining: Sequence[Generation]) -> None:
        """Make room for requests that will join."""
        by_group: dict[str | None, list[Generation]] = {}
        for generation in joining:
            by_group.setdefault(generation.group, []).append(generation)
        for group, generations in by_group.items():
            batch = self._batch(None) if group is None else self._batches.get(group)  # others are made once attached
            if batch is not None:
                batch.reserve(
                    num_new_rows=len(generations),
                    region=max(one.num_prefix for one in generations),
                    columns=max(map(_expected_columns, generations)),
                )

    def join(self, generation: Generation) -> None:
        """Give a request a row.

        Raises:
            BundleError: When its bundle cannot be used.
        """
        self._attach(generation.group)
        prefix = self._prefix_of(generation)
        batch = self._batch(generation.group)
        start = generation.start_ids
        row = batch.join(
            None if prefix is None else prefix.states,
            prefix_from=len(start) - 1 if prefix is not None and prefix.is_infix else 0,
            num_columns=_expected_columns(generation),
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
            self._group_prefixes.pop(generation.group, None)
            if self._attached is not None and self._attached[0] == generation.group:
                self._attach(None)

    def read(self, group: str | None, reading: Sequence[tuple[Generation, int]]) -> list[tuple[Generation, Tensor]]:
        """Read the next prompt tokens of some requests of a group.

        Returns:
            The requests that are read to the end, each with the logits of its next token, (vocabulary,).
        """
        self._attach(group)
        left = dict(reading)
        ended = []
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
            logits = self._batches[group].read([(row, chunk) for _, row, chunk in chunks])
            left = {one: left[one] - len(chunk) for one, _, chunk in chunks if left[one] > len(chunk)}
            ended += [(one, of_it) for (one, _, _), of_it in zip(chunks, logits, strict=True) if one.is_read]
        return ended

    def step(self, group: str | None, stepping: Sequence[Generation]) -> Tensor:
        """The logits of the next token of some requests of a group, (requests, vocabulary)."""
        self._attach(group)
        tokens = []
        for generation in stepping:
            assert generation.row is not None
            tokens.append((generation.row, generation.last_id))
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
        self._group_prefixes.clear()
        self._attach(None)

    def _batch(self, group: str | None) -> RowBatch:
        if group not in self._batches:
            self._batches[group] = RowBatch(self._backbone, activate=self._activate)
        return self._batches[group]

    def _prefix_of(self, generation: Generation) -> LoadedPrefix | None:
        version = generation.request.version
        if version is None:
            return None
        if self._attached is None:
            prefix = self._store.use(version)
            generation.uses_prefix = True
            return prefix
        if version not in self._group_prefixes:
            self._group_prefixes[version] = conditioned_prefix(self._attached[1])
        return self._group_prefixes[version]

    def _activate(self) -> None:
        """Let the attached method act in the next forward pass: an adapter's hooks are idle until it conditions one."""
        if self._attached is not None:
            self._attached[1].method.condition(self._made_up)

    def _attach(self, group: str | None) -> None:
        """Attach the bundle of a group, and detach that of another one."""
        if (None if self._attached is None else self._attached[0]) == group:
            return
        if self._attached is not None:
            self._attached[1].detach()
            self._attached = None
        if group is not None:
            self._attached = (group, restore(self._backbone, self._store.content(group)))


def _expected_columns(generation: Generation) -> int:
    return len(generation.start_ids) + min(generation.request.sampling.max_new_tokens, _EXPECTED_COLUMNS)
