"""Trained prefixes inside vLLM: a KV connector, which runs in vLLM's process.

In: requests whose prompts start with one placeholder token for each position of their prefix, labelled as
`artifacts/paged_prefix.py` says. Out: the pages of these positions hold the prefix's keys and values before the first
forward pass reads them. vLLM's scheduler asks for each request how many of its tokens need no forward pass; its worker
is told where they belong, and writes them with the attention backend's own function, which knows the layout.

A request that cannot be given its prefix fails by itself: its pages are reported as not loaded, and vLLM ends it with
an error. No hook may raise, since an exception there ends the whole server. vLLM is given this module by name:

    --kv-transfer-config '{"kv_connector": "TrainedPrefixConnector", "kv_role": "kv_consumer",
      "kv_connector_module_path": "ptl_prefix.serving.vllm_connector",
      "kv_connector_extra_config": {"bundles": "<folder>"}}'
"""

import logging
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import vllm
from torch import Tensor

from ptl_prefix.artifacts.bundle import read_bundle
from ptl_prefix.artifacts.paged_prefix import (
    PLACEHOLDER_ID,
    PagedPrefix,
    PrefixLabel,
    paged_prefix,
    vllm_version_problem,
)

if (_problem := vllm_version_problem(vllm.__version__)) is not None:
    raise ImportError(_problem)

# Of another version, these may not be there.
from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
)
from vllm.model_executor.models.utils import extract_layer_index

from ptl_prefix.serving.vllm_bundles import (
    VllmBundles,
    config_problems,
    geometry,
    setting_problems,
    weights_fingerprint,
)

_LOG = logging.getLogger("vllm.ptl_prefix")
_MAX_PREFIX_BYTES = 2**30


@dataclass(frozen=True)
class PrefixLoad:
    """Rows that the worker puts into pages before the next forward pass.

    Args:
        version: Version of the bundle.
        folder: Folder of the bundle.
        first: First position to load; those before it are in cached pages.
        slots: Place of each position from `first` on, counted over all pages.
        block_ids: Pages of these places.
    """

    version: str
    folder: str
    first: int
    slots: tuple[int, ...]
    block_ids: tuple[int, ...]


@dataclass
class PrefixLoads(KVConnectorMetadata):  # type: ignore[misc]
    """What the scheduler tells the worker in one step.

    Args:
        loads: Rows to load.
        refused_block_ids: A page of each request that must fail.
    """

    loads: list[PrefixLoad] = field(default_factory=list)
    refused_block_ids: set[int] = field(default_factory=set)


@dataclass
class _Wish:
    """What a request wants: a prefix, or to be refused."""

    label: PrefixLabel | None
    folder: Path | None = None
    num_positions: int = 0
    problem: str | None = None
    num_cached_pages: int = 0
    refused_block_id: int | None = None


class TrainedPrefixConnector(KVConnectorBase_V1):  # type: ignore[misc]
    """Puts trained prefixes into vLLM's pages.

    Settings in `kv_connector_extra_config`: `bundles`, the folder of bundles; `max_prefix_bytes`, memory of each worker
    for prefixes that are kept for the next request; `check_weights`, whether the model's files are hashed at the start
    and compared with those that each bundle was trained on.
    """

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        settings = dict(vllm_config.kv_transfer_config.kv_connector_extra_config)
        folder = settings.pop("bundles", None)
        self._max_bytes = int(settings.pop("max_prefix_bytes", _MAX_PREFIX_BYTES))
        checks_weights = bool(settings.pop("check_weights", True))
        problems = [*setting_problems(folder, settings), *config_problems(vllm_config, kv_cache_config)]
        if problems:
            raise ValueError(" ".join(problems))
        self._block_size: int = vllm_config.cache_config.block_size
        self._dtype: torch.dtype = vllm_config.model_config.dtype
        weights = None
        if role == KVConnectorRole.SCHEDULER and checks_weights:
            weights = weights_fingerprint(Path(vllm_config.model_config.model))
        dtype = str(self._dtype).removeprefix("torch.")
        self._bundles = VllmBundles(Path(folder), geometry=geometry(vllm_config), dtype=dtype, weights=weights)
        self._wishes: dict[str, _Wish] = {}
        self._loads: dict[str, PrefixLoad] = {}
        self._kept: OrderedDict[str, PagedPrefix] = OrderedDict()
        self._failed_block_ids: set[int] = set()

    # The scheduler's side.

    def on_new_request(self, request: Any) -> None:
        """Bind a request to the version that it names, or note why it must fail."""
        try:
            wish = self._wish(request)
        except Exception as error:
            wish = _Wish(PrefixLabel(""), problem=str(error))
        if wish.label is None:
            return
        if wish.problem is not None:
            _LOG.warning("Request %s is refused: %s", request.request_id, wish.problem)
        self._wishes[request.request_id] = wish
        # Else the prefix would be computed from the placeholders, as vLLM then counts no token as loaded.
        request.skip_reading_prefix_cache = False

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        """The number of tokens after the cached ones whose rows are loaded; asked again after a preemption."""
        wish = self._wishes.get(request.request_id)
        if wish is None:
            return 0, False
        if wish.problem is not None:
            wish.num_cached_pages = num_computed_tokens // self._block_size
            # One token that is claimed and then reported as not loaded makes the request fail. vLLM must have one left
            # to compute.
            return max(min(1, request.num_tokens - 1 - num_computed_tokens), 0), False
        return max(wish.num_positions - num_computed_tokens, 0), False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Note where the rows belong, once the request has pages."""
        wish = self._wishes.get(request.request_id)
        if wish is None:
            return
        (block_ids,) = blocks.get_block_ids()
        if wish.problem is not None:
            # The first page that no other request can share.
            wish.refused_block_id = block_ids[wish.num_cached_pages]
        elif num_external_tokens:
            assert wish.label is not None
            positions = range(wish.num_positions - num_external_tokens, wish.num_positions)
            size = self._block_size
            self._loads[request.request_id] = PrefixLoad(
                version=wish.label.version,
                folder=str(wish.folder),
                first=positions.start,
                slots=tuple(block_ids[one // size] * size + one % size for one in positions),
                block_ids=tuple(block_ids[positions.start // size : (positions.stop - 1) // size + 1]),
            )

    def build_connector_meta(self, scheduler_output: Any) -> PrefixLoads:
        """What the worker does before the next forward pass."""
        refused = {wish.refused_block_id for wish in self._wishes.values() if wish.refused_block_id is not None}
        loads = PrefixLoads(list(self._loads.values()), refused)
        self._loads.clear()
        return loads

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """Forget a request; its answer says which prefix it had, so that the gateway sees that there is a connector."""
        self._loads.pop(request.request_id, None)
        wish = self._wishes.pop(request.request_id, None)
        if wish is None or wish.label is None or wish.problem is not None:
            return False, None
        return False, wish.label.kv_transfer_params

    def _wish(self, request: Any) -> _Wish:
        label = PrefixLabel.of(request.kv_transfer_params, request.cache_salt)
        if label is None:
            return _Wish(None)
        folder, num_positions = self._bundles.find(label.version)
        ids = request.prompt_token_ids or []
        sampling = request.sampling_params
        facts = {
            "it has a prompt without the placeholders of its prefix, or without a token after them": (
                len(ids) <= num_positions or any(one != PLACEHOLDER_ID for one in ids[:num_positions])
            ),
            "it asks for log-probabilities of its prompt, whose placeholders have none": (
                sampling is None or sampling.prompt_logprobs is not None
            ),
            "it asks for a LoRA adapter besides": request.lora_request is not None,
            "it has images or other embeddings": bool(request.mm_features) or request.prompt_embeds is not None,
        }
        problem = next((fact for fact, is_so in facts.items() if is_so), None)
        return _Wish(label, folder, num_positions, problem)

    # The worker's side.

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Write the rows of this step's new requests into their pages."""
        loads = self._get_connector_metadata()
        self._failed_block_ids |= loads.refused_block_ids
        for load in loads.loads:
            try:
                self._load(load, forward_context)
            except Exception:
                _LOG.exception("The prefix %s could not be loaded; its requests fail.", load.version)
                self._failed_block_ids |= set(load.block_ids)

    def get_block_ids_with_load_errors(self) -> set[int]:
        """The pages whose requests vLLM must end with an error."""
        failed, self._failed_block_ids = self._failed_block_ids, set()
        return failed

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing is left to wait for after `start_load_kv`."""

    def save_kv_layer(self, layer_name: str, kv_layer: Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        """Nothing is saved."""

    def wait_for_save(self) -> None:
        """Nothing is saved."""

    def _load(self, load: PrefixLoad, forward_context: Any) -> None:
        layers = dict(_attention_layers(forward_context))
        if not layers:
            raise ValueError("The model must have attention layers with pages, but has none.")
        device = next(iter(layers.values())).kv_cache.device
        prefix = self._prefix(load, device)
        slots = torch.tensor(load.slots, dtype=torch.int64, device=device)
        for index, layer in layers.items():
            keys, values = prefix.keys[index, load.first :], prefix.values[index, load.first :]
            if keys.shape[1:] != (layer.impl.num_kv_heads, layer.impl.head_size):
                raise ValueError(f"Layer {index} must have the heads of the prefix, {tuple(keys.shape[1:])}.")
            layer.impl.do_kv_cache_update(layer, keys, values, layer.kv_cache, slots)

    def _prefix(self, load: PrefixLoad, device: torch.device) -> PagedPrefix:
        """The rows of a version on the device, this rank's heads; the least recently used make room for others."""
        if load.version not in self._kept:
            folder = Path(load.folder)
            bundle = read_bundle(folder)
            if bundle.version != load.version:
                raise ValueError(f"The bundle in '{folder}' must still be of version {load.version}, but was replaced.")
            local = paged_prefix(bundle).head_slice(
                rank=get_tensor_model_parallel_rank(), num_ranks=get_tensor_model_parallel_world_size()
            )
            rows = (one.to(device=device, dtype=self._dtype).contiguous() for one in (local.keys, local.values))
            self._kept[load.version] = PagedPrefix(*rows)
            while len(self._kept) > 1 and sum(one.num_bytes for one in self._kept.values()) > self._max_bytes:
                self._kept.popitem(last=False)
        self._kept.move_to_end(load.version)
        return self._kept[load.version]


def _attention_layers(forward_context: Any) -> Iterator[tuple[int, Any]]:
    """The layers of this worker that have pages, by their index in the model."""
    for name, layer in forward_context.no_compile_layers.items():
        if isinstance(getattr(layer, "kv_cache", None), Tensor):
            yield extract_layer_index(name), layer
