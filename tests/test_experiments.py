"""Every experiment is what its name and header say, and one of each kind runs: found by glob, none is listed here.

The papers' backbones are too large for a test, and their data are not ours to ship: a tiny random backbone of the same
family takes the place of the one, a few made-up records in files of the same form that of the other.
"""

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from support.tiny_runs import write_tiny_backbone

from ptl_prefix import settings
from ptl_prefix.artifacts.bundle import read_bundle
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.commands.config.compose import compose_and_check
from ptl_prefix.commands.config.verbs import VERBS
from ptl_prefix.commands.main import cli

EXPERIMENTS = sorted((settings.conf_dir() / "experiment").glob("*.yaml"))
RELEASED = Path(__file__).parent / "data/released"
TARGETS = {"prefix": "PrefixTuning", "finetuning": "FullFinetuning", "adapter": "Adapter", "lora": "LoRA"}
TINY_WIDTH = 24

Config = dict[str, Any]
Compose = Callable[[Path], Config]

every_experiment = pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
# One of each task, and one of each method, is enough for the fast tests: the others differ from them in numbers.
QUICK = {word: path for path in EXPERIMENTS for word in (path.stem.split("_")[0], path.stem.split("_")[-1])}.values()
# One of each task and method, with few examples and with all, is enough for the slow ones; all of them compose.
KINDS = {(words[0], words[1].isdigit(), words[-1]): path for path in EXPERIMENTS for words in [path.stem.split("_")]}
every_run = pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=() if path in QUICK else pytest.mark.slow)
        for path in sorted({*QUICK, *KINDS.values()})
    ],
)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Where a tiny backbone of each family is, and the made-up files of each task, by the first word of a name."""
    e2e = tmp_path_factory.mktemp("e2e")
    # The largest subset of the low-data experiments has to be drawn from somewhere.
    for name, count in (("trainset", 500), ("devset", 40), ("testset_w_refs", 3)):
        pairs = [f'"name[Mill {name} {index}], area[riverside]",A mill by the river.' for index in range(count)]
        (e2e / f"{name}.csv").write_text("\n".join(["mr,ref", *pairs, ""]), encoding="utf-8")
    backbones = tmp_path_factory.mktemp("backbones")
    return {
        "gpt2": write_tiny_backbone(backbones / "gpt2", "gpt2"),
        "bart": write_tiny_backbone(backbones / "bart", "bart"),
        "e2e": e2e,
        "cache": tmp_path_factory.mktemp("cache"),
        **{task: RELEASED / task for task in ("webnlg", "dart", "xsum")},
    }


def tiny(path: Path, places: Mapping[str, Path]) -> list[str]:
    """The experiment, on a tiny backbone and made-up data."""
    stated = yaml.safe_load(path.read_text(encoding="utf-8")).get("method", {})
    return [
        f"experiment={path.stem}",
        f"backbone.path={places['bart' if '_bart_' in path.stem else 'gpt2']}",
        "backbone.dtype=float32",
        "backbone.device=cpu",
        f"task.data_dir={places[path.stem.split('_')[0]]}",
        f"data.cache_dir={places['cache']}",
        *(["method.rank=4"] if stated.get("rank", 0) > TINY_WIDTH else []),
    ]


@pytest.fixture(scope="module")
def compose(places: Mapping[str, Path]) -> Compose:
    """What an experiment composes to; one that does not fails the tests that ask for it."""

    @functools.cache
    def composed(path: Path) -> Config:
        return compose_and_check(VERBS["train"], tiny(path, places)).config

    return composed


def test_there_are_experiments() -> None:
    assert EXPERIMENTS


@every_experiment
def test_its_header_has_its_command_what_to_expect_and_the_memory(path: Path) -> None:
    header = path.read_text(encoding="utf-8").split("\n\n")[0]

    assert header.startswith("# @package _global_\n# ")
    assert re.search(rf"^#   ptl-prefix train (-m )?experiment={path.stem} task\.data_dir=<.+>", header, re.MULTILINE)
    assert re.search(r"^# Memory: \d+\.\d GB by dry_run=true, .+ in (bfloat16|float32)", header, re.MULTILINE)
    for word in ("Expect", "Settings", "Differs"):
        assert re.search(rf"^# {word}: \w.*", header, re.MULTILINE), word


@every_experiment
def test_its_expected_score_is_one_that_was_published_or_said_not_to_be(path: Path) -> None:
    header = path.read_text(encoding="utf-8").split("\n\n")[0]
    expected = header.split("# Expect: ")[1].split("# Memory: ")[0]

    with_its_source = re.search(r"(BLEU|ROUGE-\d) [^(]*\d\.\d[^(]* \(\w[^)]+, 20\d\d[,)]", expected)
    assert with_its_source or expected.startswith("not published")


@every_experiment
def test_it_composes_without_a_mistake_to_what_its_name_says(path: Path, compose: Compose) -> None:
    config = compose(path)
    task, backbone = path.stem.split("_")[0], config["backbone"]["name"]
    method = path.stem.split(f"_{backbone}_")[1].removesuffix("_small")
    number = re.match(rf"{task}_(\d+)_", path.stem)

    assert config["task"]["name"].startswith(task)
    assert config["method"]["_target_"].endswith(f".{TARGETS[method]}")
    assert config["task"]["num_train_examples"] == (int(number[1]) if number else None)


@every_experiment
def test_its_learning_rate_is_stated_and_its_whole_test_split_is_decoded(path: Path, compose: Compose) -> None:
    config = compose(path)

    assert config["optimizer"]["lr"] is not None
    assert config["evaluation"]["num_examples"] is None


def test_all_methods_of_a_task_decode_alike(compose: Compose) -> None:
    decodings: dict[str, list[Config]] = {}
    for path in EXPERIMENTS:
        decodings.setdefault(path.stem.split("_")[0], []).append(compose(path)["generation"])

    for task, found in decodings.items():
        assert all(decoding == found[0] for decoding in found), task
        assert found[0]["num_beams"] == (6 if task == "xsum" else 5)


def test_two_sizes_of_a_backbone_are_trained_alike(compose: Compose) -> None:
    pairs = [(path, path.with_stem(path.stem.replace("_medium_", "_large_"))) for path in EXPERIMENTS]
    pairs = [(medium, large) for medium, large in pairs if medium != large and large in EXPERIMENTS]

    assert pairs
    for medium, large in pairs:
        differing = {
            f"{group}.{key}"
            for group, values in compose(medium).items()
            for key, value in (values.items() if isinstance(values, dict) else ())
            if value != compose(large)[group][key]
        }
        # An adapter is as wide as makes the same share of either.
        assert differing - {"method.bottleneck_size"} == {"backbone.name"}, large.stem


@every_run
def test_it_trains_a_step_and_decodes(path: Path, places: Mapping[str, Path], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    little = ["data.batch_size=2", "trainer.max_steps=1", "evaluation.num_examples=2"]

    result = CliRunner().invoke(cli, ["train", *tiny(path, places), *little, f"hydra.run.dir={folder.path}"])

    assert result.exit_code == 0, result.output
    record = read_record(folder.record)
    assert (record.status, record.cost.steps) == ("finished", 1)
    assert record.metrics["val/loss"] > 0
    assert any(name.startswith("test/") for name in record.metrics)
    assert read_bundle(folder.bundle).manifest.task == record.task


def test_several_are_run_by_one_command(places: Mapping[str, Path], tmp_path: Path) -> None:
    prefix, lora = (path for path in EXPERIMENTS if path.stem in ("e2e_gpt2_medium_lora", "e2e_gpt2_medium_prefix"))
    others = tiny(prefix, places)[1:]

    result = CliRunner().invoke(
        cli,
        [
            "train",
            "-m",
            f"experiment={prefix.stem},{lora.stem}",
            *others,
            "dry_run=true",
            f"hydra.sweep.dir={tmp_path}",
        ],
    )

    assert result.exit_code == 0, result.output
    assert re.findall(r"^  name: (prefix_tuning|lora)$", result.output, re.MULTILINE) == ["lora", "prefix_tuning"]
