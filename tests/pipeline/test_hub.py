"""A run's bundle goes to the hub and comes back, by the command line, with the hub's own client and a local server."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command_lines import CommandLine, Invoke
from support.fake_hub import FakeHub, fake_hub

import ptl_prefix
from ptl_prefix.artifacts.bundle import read_bundle
from ptl_prefix.artifacts.run_folder import RunFolder

SOURCE = "name : The Golden Mill | kind : pub"
REPO = "somebody/mill"
BUNDLE_FILES = ("manifest.json", "routing.safetensors", "tensors.safetensors")

# The hub's client uploads to Git LFS by a name that is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with fake_hub(monkeypatch, tmp_path / "cache") as server:
        yield server


@pytest.mark.slow
def test_a_pushed_bundle_comes_back_by_branch_and_by_commit(
    hub: FakeHub, small_run: RunFolder, command_line: CommandLine, invoke: Invoke
) -> None:
    pushed = invoke("push", f"bundle={small_run.path}", f"repo={REPO}", "private=true", "revision=v1")

    assert pushed.exit_code == 0, pushed.output
    repo = hub.repos[REPO]
    address = f"hub:{REPO}@{repo.branches['v1']}"
    assert pushed.stdout.splitlines() == [
        f"repo:   {hub.url}/{REPO}",
        f"commit: {repo.branches['v1']}",
        f"bundle: {address}",
    ]
    assert (repo.private, repo.messages) == (True, ["Bundle of prefix_tuning on tiny for table_to_text"])
    assert set(repo.files("v1")) == {".gitattributes", "README.md", *BUNDLE_FILES}
    assert set(repo.files("main")) == {".gitattributes"}
    # No folder of this machine is in what others read.
    for name in ("README.md", "manifest.json"):
        assert str(small_run.path.parent) not in repo.files("v1")[name].decode()
        assert str(command_line.tiny.backbone_folder) not in repo.files("v1")[name].decode()
    assert f'load_bundle("hub:{REPO}", backbone)' in repo.files("v1")["README.md"].decode()

    backbone = f"backbone={command_line.tiny.backbone_folder}"
    assert invoke("generate", f"hub:{REPO}@v1", SOURCE, backbone).stderr.startswith(f"bundle: {address}\n")
    texts = [
        invoke("generate", bundle, SOURCE, "max_new_tokens=6", backbone).stdout
        for bundle in (f"hub:{REPO}@v1", address, small_run.path)
    ]

    assert texts[0] == texts[1] == texts[2] != ""
    loaded = ptl_prefix.load_bundle(f"hub:{REPO}@v1", command_line.tiny.backbone(dtype="float32"))
    assert loaded.bundle.origin == address
    assert loaded.generate([SOURCE], max_new_tokens=6) == [texts[0].strip()]


@pytest.mark.slow
def test_evaluations_and_inspections_know_the_commit(
    hub: FakeHub, small_run: RunFolder, command_line: CommandLine, invoke: Invoke
) -> None:
    commit = hub.add(REPO, small_run.bundle).branches["main"]
    backbone = f"backbone={command_line.tiny.backbone_folder}"
    words = ["task=table_to_text", "task.num_test=2", "task.num_train=4", "task.num_validation=2", "max_new_tokens=2"]

    evaluated = invoke("evaluate", f"bundle=hub:{REPO}", *words, backbone)
    inspected = invoke("inspect", f"bundle=hub:{REPO}", SOURCE, "max_new_tokens=1", "max_words=9", backbone)

    assert evaluated.exit_code == 0, evaluated.output
    (record,) = Path("outputs/hub/somebody--mill-evaluation").glob("*/metrics.json")
    assert json.loads(record.read_text())["environment"]["bundle"] == f"hub:{REPO}@{commit}"
    assert inspected.exit_code == 0, inspected.output
    inspection = json.loads(Path("outputs/hub/somebody--mill-inspection/inspection.json").read_text())
    assert inspection["bundle"] == f"hub:{REPO}@{commit}"


@pytest.mark.slow
def test_an_adapter_on_the_hub_is_imported_and_a_bundle_starts_a_run(
    hub: FakeHub, small_run: RunFolder, command_line: CommandLine, invoke: Invoke
) -> None:
    exported = invoke("export", f"run={small_run.path}", "format=peft", "out=adapter")
    assert exported.exit_code == 0, exported.output
    hub.add("somebody/adapter", Path("adapter"))
    commit = hub.add(REPO, small_run.bundle).branches["main"]

    result = invoke("import", "peft=hub:somebody/adapter", "task=table_to_text", "dtype=float32", "out=imported")
    start = f"method.init=bundle method.init_bundle=hub:{REPO} method.reparam=none"
    trained = invoke("train", *command_line.small, *start.split(), "hydra.run.dir=again")

    assert result.exit_code == 0, result.output
    assert read_bundle("imported").manifest.tensors_sha256 == read_bundle(small_run.bundle).manifest.tensors_sha256
    assert trained.exit_code == 0, trained.output
    assert f"starts from hub:{REPO}@{commit}" in trained.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "fact"),
    [
        ("push bundle=nowhere repo=a/b", 1, "'nowhere' does not exist"),
        ("push bundle={run} repo=mill", 2, "`repo` must be <user>/<name>"),
        ("push bundle={run} repo=a/b revision=../x", 2, "`revision` a branch"),
        ("push bundle=hub:a/b repo=a/b", 2, "`bundle` must be a folder of this machine"),
        ("push bundle={run} repo=a/b private=true", 1, "must be private with private=true"),
        ("generate hub:a/none x", 1, "no repository of this name is open to you"),
        ("evaluate bundle=hub:a/none", 2, "`task` must be set"),
        ("inspect bundle=hub:a/none", 1, "no repository of this name is open to you"),
    ],
)
def test_mistakes_are_one_sentence(
    words: str, code: int, fact: str, hub: FakeHub, small_run: RunFolder, invoke: Invoke
) -> None:
    hub.add("a/b", small_run.bundle)

    result = invoke(*words.replace("{run}", str(small_run.path)).split())

    assert result.exit_code == code, result.output
    assert fact in result.stderr
    assert "Traceback" not in result.output
