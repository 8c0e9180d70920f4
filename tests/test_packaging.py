import os
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]


def run(*command: str | Path, cwd: Path) -> str:
    """What a command prints; run as from another folder's shell, where the checkout is not importable."""
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env["PYTHONPATH"] = str(CHECKOUT / "tests/no_network")
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel."""
    pytest.importorskip("hatchling", reason="needs the build backend")
    folder = tmp_path_factory.mktemp("wheel")
    flags = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder]
    run(sys.executable, "-m", "pip", "wheel", *flags, CHECKOUT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment that has the wheel, and our dependencies by reference, but not the checkout."""
    environment = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=environment)
    python = environment / "bin/python"
    flags = ["--no-deps", "--no-index"]
    run(sys.executable, "-m", "pip", "--python", python, "install", *flags, wheel, cwd=environment)
    # A folder named in a .pth file is searched, but its own .pth files, such as an editable install's, are not read.
    site_packages = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=environment).strip()
    )
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin"


@pytest.mark.slow
def test_the_wheel_carries_configs_sweeps_and_the_embedded_backbone(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())

    shipped = {f"ptl_prefix/{path.relative_to(CHECKOUT)}" for path in (CHECKOUT / "conf").rglob("*.yaml")}
    assert shipped
    assert shipped <= names
    assert any(name.startswith("ptl_prefix/sweeps/") for name in names)
    assert "ptl_prefix/backbones/embedded/tiny_gpt2/model.safetensors" in names
    assert "ptl_prefix/serving/page.html" in names
    assert {f"ptl_prefix/backbones/chat_templates/{name}.jinja" for name in ("chatml", "llama3", "gemma")} <= names
    assert {f"ptl_prefix/reporting/page_parts/page.{end}" for end in ("css", "html.jinja", "js")} <= names
    assert not any(name.startswith(("tests", "conf", "outputs")) for name in names)


@pytest.mark.slow
def test_the_installed_command_works_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    where = run(
        installed / "python", "-c", "import ptl_prefix.settings as s; print(s.conf_dir())", cwd=tmp_path
    ).strip()
    assert where.startswith(str(installed.parent))

    assert "Usage: ptl-prefix" in run(installed / "ptl-prefix", "--help", cwd=tmp_path)
    assert "prefix_tuning" in run(installed / "ptl-prefix", "methods", cwd=tmp_path)
    assert "prefix_length: 7" in run(
        installed / "ptl-prefix", "train", "--cfg", "job", "method.prefix_length=7", cwd=tmp_path
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_installed_command_trains_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    steps = ["trainer.max_steps=2", "trainer.val_check_interval=2", "evaluation.num_examples=2", "data.batch_size=2"]

    run(
        installed / "ptl-prefix",
        "train",
        *steps,
        "hydra.run.dir=run",
        f"data.cache_dir={tmp_path / 'cache'}",
        cwd=tmp_path,
    )

    assert {"record.json", "config.yaml", "events.jsonl", "bundle"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }


def test_every_dependency_is_pinned_and_torch_for_any_machine() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    named = [*project["dependencies"], *(requirement for extra in extras for requirement in extra)]
    lines = (CHECKOUT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))

    for requirement in named:
        assert requirement.replace("=", ">").replace("[", ">").split(">")[0].lower() in pins
    assert not any("+" in version for version in pins.values())


def test_what_is_imported_was_installed_as_pinned() -> None:
    from importlib.metadata import PackageNotFoundError, version

    lines = (CHECKOUT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    for name in ("torch", "transformers", "pytorch-lightning", "hydra-core", "datasets", "click", "pydantic"):
        try:
            assert version(name).split("+")[0] == pins[name]
        except PackageNotFoundError:
            pytest.fail(f"{name} must be installed; `make setup` does")
