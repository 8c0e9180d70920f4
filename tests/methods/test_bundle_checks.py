"""A bundle from anyone: each value of its manifest is refused in words, or harms nothing."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.no_task import export_untasked

from ptl_prefix import PrefixTuning
from ptl_prefix.artifacts.bundle import read_bundle
from ptl_prefix.artifacts.fingerprint import fingerprint_text
from ptl_prefix.artifacts.json_document import hash_of
from ptl_prefix.artifacts.manifest import read_manifest, settings_fingerprint
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.errors import BundleError, PtlPrefixError
from ptl_prefix.methods.restore import restore

IDS = torch.tensor([[5, 6, 7, 8]])
SEAL = "manifest_sha256"


@pytest.fixture(scope="module")
def gpt2(tiny_folders: dict[str, Path]) -> Backbone:
    return load_backbone(str(tiny_folders["gpt2"]), dtype="float32")


@pytest.fixture(scope="module")
def whole(gpt2: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that fits the backbone."""
    folder = tmp_path_factory.mktemp("bundles") / "whole"
    method = PrefixTuning(prefix_length=3, reparam="none").attach(gpt2)
    export_untasked(method.eval(), gpt2, folder)
    method.detach()
    return folder


@pytest.fixture
def bundle(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(whole, tmp_path / "bundle"))


def values_of(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return values


def change(folder: Path, path: tuple[Any, ...], value: Any) -> None:
    """Change one value of a manifest, and its seal with it, as an author of bundles can."""
    values = values_of(folder)
    part = values
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    reseal(folder, values)


def reseal(folder: Path, values: dict[str, Any]) -> None:
    content = {key: part for key, part in values.items() if key != SEAL}
    (folder / "manifest.json").write_text(json.dumps({**content, SEAL: hash_of(content)}))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("dtype", "int4"),
        ("dtype", "__import__"),
        ("backbone.quantization", "gguf"),
        ("backbone.path", ""),
        ("position_law", "sideways"),
        ("geometry.decoder_self.num_layers", -3),
        ("geometry.decoder_self.head_dim", 0),
        ("decoding.num_beams", 10**6),
        ("decoding.seed", 2**70),
        ("decoding.max_new_tokens", -1),
        ("decoding.max_new_tokens", 10**12),
        ("decoding.length_penalty", 1e300),
        ("prompt.max_source_tokens", -5),
        ("stop_ids", [-1]),
        ("stop_ids", [2**40]),
        ("tensors.decoder_self.keys.shape", [3, -4, 3, 8]),
    ],
)
def test_an_impossible_value_is_refused_with_the_manifest(bundle: Path, path: str, value: Any) -> None:
    parts = path.replace("tensors.decoder_self.keys.shape", "tensors,decoder_self.keys,shape").split(
        "," if path.startswith("tensors") else "."
    )
    change(bundle, tuple(parts), value)

    with pytest.raises(BundleError, match="must be whole and unchanged since its export"):
        read_manifest(bundle)


@pytest.mark.parametrize(
    ("path", "value", "fact"),
    [
        (("geometry", "decoder_self", "num_layers"), 2, "its geometry is that of the backbone"),
        (("geometry",), {}, "its geometry is that of the backbone"),
        (("settings", "prefix_length"), 10**9, "no tensor has the dimension `prefix_length`"),
        (("settings", "prefix_length"), "3", "no tensor has the dimension `prefix_length`"),
        (("position_law",), "unshifted", "`position_law` is that of its method"),
        (("stop_ids",), [7], "`stop_ids` are those of its prompt format"),
        (("prompt", "after"), "", "a prompt format that its backbone can read"),
        (("settings", "layers"), [99], "must have the settings and tensors of its method"),
        (("backbone", "config_fingerprint"), fingerprint_text("other"), "the config (such as activation"),
    ],
)
def test_a_manifest_that_its_tensors_or_its_backbone_contradict_is_refused(
    bundle: Path, gpt2: Backbone, path: tuple[Any, ...], value: Any, fact: str
) -> None:
    bare = gpt2.model(IDS).logits
    change(bundle, path, value)

    with pytest.raises(BundleError) as refusal:
        restore(gpt2, read_bundle(bundle))

    assert fact in str(refusal.value)
    assert torch.equal(gpt2.model(IDS).logits, bare)
    assert gpt2.attachments == []


def test_a_bundle_without_a_fingerprint_of_the_config_still_loads(bundle: Path, gpt2: Backbone) -> None:
    values = values_of(bundle)
    del values["backbone"]["config_fingerprint"]
    reseal(bundle, values)

    restore(gpt2, read_bundle(bundle)).detach()


def test_the_hash_of_the_settings_is_of_what_outputs_depend_on(bundle: Path) -> None:
    before = settings_fingerprint(read_manifest(bundle))

    change(bundle, ("created",), "another day")
    assert settings_fingerprint(read_manifest(bundle)) == before
    change(bundle, ("settings", "layers"), [0])
    assert settings_fingerprint(read_manifest(bundle)) != before


def paths_in(values: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values of a JSON document, inner ones too."""
    children = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, child in children:
        yield (*prefix, key)
        yield from paths_in(child, (*prefix, key))


ANYTHING = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.integers(-2, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["unshifted", "infix", "lora", "float16", "{bos}", "{eos}", "decoder_self"])
    | st.lists(st.integers(-2, 5) | st.text(max_size=3), max_size=3)
    | st.dictionaries(st.text(max_size=5), st.integers(-2, 5), max_size=2)
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_value_anywhere_in_a_manifest_is_refused_in_words_or_harmless(
    whole: Path, gpt2: Backbone, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    copy = tmp_path_factory.getbasetemp() / "any-bundle-value"
    shutil.copytree(whole, copy, dirs_exist_ok=True)
    path = data.draw(st.sampled_from(sorted(paths_in(values_of(whole)), key=str)))
    change(copy, path, data.draw(ANYTHING))

    try:
        adaptation = restore(gpt2, read_bundle(copy))
    except PtlPrefixError:
        assert gpt2.attachments == []
        return
    try:
        adaptation.generate(["the cat"], max_new_tokens=2, num_beams=1)
    except ValueError:  # a setting of decoding that does not fit the others, as from `generate` with the same settings
        pass
    finally:
        adaptation.detach()
