"""The bundles that fit the model which vLLM serves, and vLLM's settings under which they can be served.

In: vLLM's config, and a folder of bundles. Out: what is wrong with the settings, found before the first request; and
`VllmBundles`, which finds a bundle by its version, or says why it does not fit. Like the connector, this runs in vLLM's
process and imports nothing of the package but `artifacts/`.
"""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor
from vllm.v1.kv_cache_interface import FullAttentionSpec

from ptl_prefix.artifacts.bundle_folder import find_bundle
from ptl_prefix.artifacts.fingerprint import fingerprint_tensors
from ptl_prefix.artifacts.json_document import parse_json
from ptl_prefix.artifacts.manifest import Manifest, read_versioned_manifest
from ptl_prefix.artifacts.paged_prefix import SITE, paged_problem

_LOG = logging.getLogger("vllm.ptl_prefix")


class VllmBundles:
    """The bundles of a folder by version. A new one is found when it is first asked for.

    Args:
        folder: Folder whose subfolders are bundles or run folders.
        geometry: `num_layers`, `num_kv_heads` and `head_dim` of the model.
        dtype: Dtype in which vLLM computes.
        weights: Fingerprint of the model's weights; `None` does not compare it.
    """

    def __init__(self, folder: Path, *, geometry: dict[str, int], dtype: str, weights: str | None) -> None:
        self._folder = folder
        self._geometry = geometry
        self._dtype = dtype
        self._weights = weights
        self._found: dict[str, tuple[Path, Manifest]] = {}

    def find(self, version: str) -> tuple[Path, int]:
        """The folder of a version, and the number of positions of its prefix.

        Raises:
            ValueError: When there is none, or it is not of this model.
        """
        if version not in self._found:
            self._found = dict(self._scan())
        if version not in self._found:
            raise ValueError(f"a prefix must be in '{self._folder}', but version {version} is not")
        folder, manifest = self._found[version]
        if (problem := paged_problem(manifest)) is not None:
            raise ValueError(problem)
        if manifest.geometry[SITE] != self._geometry:
            raise ValueError(f"the model must be {manifest.geometry[SITE]}, as the bundle's, but is {self._geometry}")
        if manifest.dtype != self._dtype:
            raise ValueError(f"vLLM must compute in {manifest.dtype}, as in training, but computes in {self._dtype}")
        if self._weights not in (None, manifest.backbone.weights_fingerprint):
            raise ValueError("the model's weights must be those that the bundle was trained on, but are others")
        return folder, int(manifest.settings["prefix_length"])

    def _scan(self) -> Iterator[tuple[str, tuple[Path, Manifest]]]:
        for path in sorted(one for one in self._folder.iterdir() if one.is_dir()):
            try:
                folder = find_bundle(path)
                manifest, version = read_versioned_manifest(folder)
                yield version, (folder, manifest)
            except Exception as error:
                _LOG.warning("'%s' is no bundle that can be served: %s", path, error)


def setting_problems(folder: Any, unknown: dict[str, Any]) -> list[str]:
    """What is wrong with `kv_connector_extra_config`: the folder of bundles, and settings that are left over."""
    problems = [f"`kv_connector_extra_config` has no setting {name!r}; leave it out." for name in sorted(unknown)]
    if not isinstance(folder, str) or not Path(folder).is_dir():
        problems.append(f"`kv_connector_extra_config.bundles` must be a folder, but is {folder!r}.")
    return problems


def config_problems(config: Any, kv_cache_config: Any) -> list[str]:
    """Settings of vLLM under which a prefix would not reach the text, or something else would in its place."""
    transfer, parallel = config.kv_transfer_config, config.parallel_config
    groups = [] if kv_cache_config is None else kv_cache_config.kv_cache_groups
    facts = {
        "`kv_load_failure_policy` must be 'fail': recomputed placeholders are no prefix.": (
            transfer.kv_load_failure_policy != "fail"
        ),
        "`kv_role` must be 'kv_consumer', as nothing is handed on.": transfer.kv_role != "kv_consumer",
        "`speculative_config` must be none: a draft model would not see the prefix.": (
            config.speculative_config is not None
        ),
        "`decode_context_parallel_size` and `prefill_context_parallel_size` must be 1.": (
            max(parallel.decode_context_parallel_size, getattr(parallel, "prefill_context_parallel_size", 1)) > 1
        ),
        "`kv_cache_dtype` must be 'auto': a prefix was trained against keys and values of the model's precision.": (
            config.cache_config.cache_dtype not in ("auto", str(config.model_config.dtype).removeprefix("torch."))
        ),
        "Every layer must attend to the whole text: a prefix would leave a window.": not all(
            type(group.kv_cache_spec) is FullAttentionSpec
            and group.kv_cache_spec.sliding_window is None
            and group.kv_cache_spec.attention_chunk_size is None
            for group in groups
        ),
        "The layers must share one group of pages.": len(groups) > 1,
    }
    return [fact for fact, is_wrong in facts.items() if is_wrong]


def geometry(config: Any) -> dict[str, int]:
    """The geometry of the model, as manifests hold it."""
    model = config.model_config
    return {
        "num_layers": int(model.hf_text_config.num_hidden_layers),
        "num_kv_heads": int(model.get_total_num_kv_heads()),
        "head_dim": int(model.get_head_size()),
    }


def weights_fingerprint(folder: Path) -> str:
    """The hash of a model's weights, as bundles hold it: of the tensors that its index names, or all of one file."""
    index, whole = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if not index.is_file() and not whole.is_file():
        raise ValueError(
            f"The model must be a local folder of safetensors, so that its weights can be compared with those that the "
            f"bundles were trained on, but '{folder}' is none; set `check_weights` to false to trust that they agree."
        )
    named: dict[str, str] = parse_json(index.read_bytes())["weight_map"] if index.is_file() else {}
    files = sorted(set(named.values())) or [whole.name]
    return fingerprint_tensors(pair for file in files for pair in _tensors(folder / file, named))


def _tensors(path: Path, named: Mapping[str, str]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a file, without those that the index says are elsewhere."""
    with safe_open(path, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - not a dict
            if named.get(name, path.name) == path.name:
                yield name, tensors.get_tensor(name)
