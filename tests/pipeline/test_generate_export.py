import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from support.command_lines import CommandLine, Finished, Invoke
from torch.testing import assert_close

from ptl_prefix.artifacts.bundle import read_bundle
from ptl_prefix.artifacts.json_document import hash_of
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.backbones.model_inputs import Padding, prompt_batch
from ptl_prefix.backbones.spec import BackboneSpec, load_backbone
from ptl_prefix.commands.main import cli
from ptl_prefix.methods.restore import restore
from ptl_prefix.training.module import AdaptationModule

SOURCE = "name : The Golden Mill | kind : pub | city : Paris"


@pytest.fixture(scope="module")
def worsened(command_line: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose best checkpoint is its second of four."""
    folder = RunFolder(tmp_path_factory.mktemp("worsened") / "run")
    losses = iter([3.0, 2.0, 2.5, 2.25])

    def end(self: AdaptationModule) -> None:
        self._validation.take()
        self.log("val/loss", torch.tensor(next(losses), dtype=torch.float64))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AdaptationModule, "on_validation_epoch_end", end)
        words = [
            "trainer.max_steps=8",
            "trainer.val_check_interval=2",
            "training.keep_last=2",
            f"hydra.run.dir={folder.path}",
        ]
        result = CliRunner().invoke(cli, ["train", *command_line.small, *words])
    assert result.exit_code == 0, result.output
    return folder


class TestExport:
    def test_best_is_the_bundle_that_train_wrote(self, worsened: RunFolder, invoke: Invoke) -> None:
        result = invoke("export", f"run={worsened.path}", "out=exported")

        assert result.exit_code == 0, result.output
        assert result.stdout.strip() == "bundle: exported"
        exported, written = read_bundle("exported").manifest, read_bundle(worsened.bundle).manifest
        assert exported.tensors_sha256 == written.tensors_sha256
        assert exported.metrics == written.metrics == read_record(worsened.record).metrics

    def test_last_is_another_with_the_loss_that_it_had(self, worsened: RunFolder, invoke: Invoke) -> None:
        result = invoke("export", f"run={worsened.path}", "checkpoint=last", "out=exported")

        assert result.exit_code == 0, result.output
        exported, written = read_bundle("exported").manifest, read_bundle(worsened.bundle).manifest
        assert exported.tensors_sha256 != written.tensors_sha256
        assert exported.metrics == {"val/loss": 2.25}

    def test_a_kept_checkpoint_or_a_file_may_be_named(self, worsened: RunFolder, invoke: Invoke) -> None:
        shutil.copy(worsened.last, "copied.ckpt")
        for name, file in (("copied.ckpt", "named"), ("step-6", "kept"), ("last", "last")):
            assert invoke("export", f"run={worsened.path}", f"checkpoint={name}", f"out={file}").exit_code == 0

        assert read_bundle("named").manifest.tensors_sha256 == read_bundle("last").manifest.tensors_sha256
        assert read_bundle("kept").manifest.metrics == {"val/loss": 2.5}

    def test_the_best_is_the_best_however_its_path_is_written(
        self, worsened: RunFolder, invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(worsened.path)

        result = invoke("export", "run=.", "checkpoint=../run/checkpoints/best.ckpt", f"out={tmp_path}/exported")

        assert result.exit_code == 0, result.output
        assert read_bundle(tmp_path / "exported").manifest.metrics == read_record(worsened.record).metrics

    def test_a_checkpoint_that_is_none_is_refused(self, worsened: RunFolder, invoke: Invoke) -> None:
        Path("torn.ckpt").write_bytes(worsened.last.read_bytes()[:5000])
        torch.save({"state_dict": {"foreign": torch.zeros(2)}, "global_step": 1, "callbacks": {}}, "foreign.ckpt")
        for name, fact in (
            ("missing.ckpt", "is not a file; look in"),
            ("torn.ckpt", "must be whole and written by `ptl-prefix train`"),
            ("foreign.ckpt", "names or shapes differ; use the run's own config"),
        ):
            result = invoke("export", f"run={worsened.path}", f"checkpoint={name}", "out=exported")

            assert result.exit_code == 1, name
            assert fact in result.stderr
            assert "Traceback" not in result.output
        assert not Path("exported").exists()

    def test_a_damaged_checkpoint_offers_the_other_one_if_it_is_whole(
        self, worsened: RunFolder, invoke: Invoke, tmp_path: Path
    ) -> None:
        run = RunFolder(tmp_path / "run with damage")
        shutil.copytree(worsened.path, run.path)
        run.best.write_bytes(run.best.read_bytes()[:5000])

        offered = invoke("export", f"run={run.path}", "out=exported")
        words = shlex.split(offered.stderr.partition("export it with: ptl-prefix ")[2])
        accepted = invoke(*words)
        run.last.write_bytes(b"")
        none_left = invoke("export", f"run={run.path}", "out=again")

        assert offered.exit_code == 1 and "The last checkpoint, of step" in offered.stderr
        assert accepted.exit_code == 0, accepted.output
        assert none_left.exit_code == 1 and "No checkpoint is left to export; repeat the run." in none_left.stderr

    def test_a_folder_that_is_no_run_is_refused(self, invoke: Invoke) -> None:
        result = invoke("export", "run=nowhere", "out=exported")

        assert result.exit_code != 0
        assert "A run must be a folder with a config.yaml, but nowhere is not a folder" in result.stderr

    def test_what_else_is_in_the_folder_is_not_lost(self, worsened: RunFolder, invoke: Invoke) -> None:
        Path("mine").mkdir()
        Path("mine/thesis.txt").write_text("years")

        result = invoke("export", f"run={worsened.path}", "out=mine")

        assert result.exit_code == 1
        assert "thesis.txt" in result.stderr
        assert Path("mine/thesis.txt").read_text() == "years"


class TestMerge:
    def test_a_merged_model_writes_what_the_bundle_writes(self, command_line: CommandLine, invoke: Invoke) -> None:
        lora_run = RunFolder("lora")
        words = [word for word in command_line.small if not word.startswith("method.")]
        trained = invoke("train", *words, "method=lora", "optimizer.lr=0.05", "hydra.run.dir=lora")
        assert trained.exit_code == 0, trained.output

        result = invoke("export", f"run={lora_run.path}", "merge=true", "out=model")

        assert result.exit_code == 0, result.output
        assert (result.stdout.strip(), result.stderr) == ("model: model", "")
        merged, bundle = load_backbone("model", dtype="float32"), read_bundle(lora_run.bundle)
        bare = load_backbone(bundle.manifest.backbone.path, dtype="float32")
        inputs = prompt_batch([[5, 6, 7, 8]], Padding(1)).with_positions()
        plain = bare.logits(inputs)
        restore(bare, bundle)
        assert_close(merged.logits(inputs), bare.logits(inputs), rtol=1e-4, atol=1e-4)
        assert (merged.logits(inputs) - plain).abs().max() > 0.01

    def test_a_prefix_cannot_be_merged_and_says_so_before_weights_load(
        self, worsened: RunFolder, invoke: Invoke
    ) -> None:
        result = invoke("export", f"run={worsened.path}", "merge=true", "out=model")

        assert result.exit_code == 2, result.output
        assert "`merge` must be false for 'prefix_tuning'" in result.stderr
        assert not Path("model").exists()


class TestGenerate:
    @pytest.mark.parametrize("place", ["run", "bundle"])
    def test_a_run_or_a_bundle_writes_a_line_for_each_source(
        self, finished: Finished, invoke: Invoke, place: str
    ) -> None:
        folder = finished.folder.path if place == "run" else finished.folder.bundle

        result = invoke("generate", folder, SOURCE, "name : The Old Star", "max_new_tokens=8")

        assert result.exit_code == 0, result.output
        assert result.stderr == ""
        assert len(result.stdout.splitlines()) == 2

    def test_it_writes_what_the_bundle_writes_from_python(self, small_run: RunFolder, invoke: Invoke) -> None:
        sources = [SOURCE, "name : The Old Star", "city : Rome"]
        bundle = read_bundle(small_run.bundle)
        adaptation = restore(load_backbone(bundle.manifest.backbone.path, dtype="float32"), bundle)

        result = invoke("generate", small_run.path, *sources, "batch_size=2")

        assert result.stdout.splitlines() == [" ".join(text.split()) for text in adaptation.generate(sources)]

    def test_sources_come_from_a_file_after_those_of_the_command_line_and_go_to_a_file(
        self, finished: Finished, invoke: Invoke
    ) -> None:
        Path("sources.txt").write_text("name : The Old Star\nname : The\u2028Blue\x0bKing\n\n", encoding="utf-8")

        result = invoke(
            "generate", finished.folder.path, SOURCE, "input=sources.txt", "output=texts.txt", "max_new_tokens=8"
        )

        assert (result.exit_code, result.output) == (0, "")
        assert len(Path("texts.txt").read_text(encoding="utf-8").split("\n")) == 5  # four lines, each with its end

    def test_settings_of_decoding_replace_the_bundles_own(self, finished: Finished, invoke: Invoke) -> None:
        short, long = (
            invoke("generate", finished.folder.path, SOURCE, f"max_new_tokens={number}").stdout.split()
            for number in (2, 12)
        )

        assert len(short) < len(long)

    def test_sampling_is_repeated_by_its_seed(self, finished: Finished, invoke: Invoke) -> None:
        def sampled(seed: int) -> str:
            settings = ("do_sample=true", "temperature=2.0", "max_new_tokens=12", f"seed={seed}")
            return str(invoke("generate", finished.folder.path, SOURCE, *settings).stdout)

        assert sampled(1) == sampled(1) != sampled(2)

    @pytest.mark.parametrize(
        ("words", "code", "fact"),
        [
            ((), 2, "needs a bundle or run folder as its first argument"),
            (("nowhere", SOURCE), 1, "nowhere"),
            (("{bundle}",), 2, "needs sources, but got none"),
            (("{bundle}", "input=missing.txt"), 2, "`input` must be a file or - for standard input"),
            (("{bundle}", SOURCE, "output=no/such/folder.txt"), 1, "`output` must be a writable file"),
            (("{bundle}", SOURCE, "max_new_tokens=0"), 2, "max_new_tokens"),
            (("{bundle}", SOURCE, "min_new_tokens=9", "max_new_tokens=3"), 2, "`min_new_tokens` must be <="),
            (("{bundle}", SOURCE, "max_new_tokens=600"), 1, "must fit the 512 positions"),
            (("{bundle}", SOURCE, "backbone=nowhere/at-all"), 1, "but 'nowhere/at-all' is none"),
        ],
    )
    def test_what_cannot_be_generated_is_said_in_a_sentence(
        self, finished: Finished, invoke: Invoke, words: tuple[str, ...], code: int, fact: str
    ) -> None:
        result = invoke("generate", *(word.replace("{bundle}", str(finished.folder.bundle)) for word in words))

        assert fact in result.stderr, result.output
        assert result.exit_code == code
        assert "Traceback" not in result.output


class TestADamagedBundle:
    @pytest.fixture
    def bundle(self, finished: Finished, tmp_path: Path) -> Path:
        return Path(shutil.copytree(finished.folder.bundle, tmp_path / "bundle"))

    def refusal(self, bundle: Path, invoke: Invoke) -> str:
        result = invoke("generate", bundle, SOURCE)
        assert result.exit_code == 1
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
        return str(result.stderr)

    def test_with_a_changed_byte_is_refused(self, bundle: Path, invoke: Invoke) -> None:
        content = bytearray((bundle / "tensors.safetensors").read_bytes())
        content[-1] ^= 1
        (bundle / "tensors.safetensors").write_bytes(content)

        assert "tensors_sha256" in self.refusal(bundle, invoke)

    def test_cut_short_is_refused(self, bundle: Path, invoke: Invoke) -> None:
        content = (bundle / "tensors.safetensors").read_bytes()
        (bundle / "tensors.safetensors").write_bytes(content[:-100])

        assert "truncated" in self.refusal(bundle, invoke)

    def test_of_a_foreign_version_is_refused(self, bundle: Path, invoke: Invoke) -> None:
        manifest = json.loads((bundle / "manifest.json").read_text())
        (bundle / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 99}))

        assert "99" in self.refusal(bundle, invoke)

    def test_may_not_choose_what_is_downloaded(
        self, bundle: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        values = json.loads((bundle / "manifest.json").read_text())
        values["backbone"]["path"] = "somebody/model"
        del values["manifest_sha256"]
        (bundle / "manifest.json").write_text(json.dumps({**values, "manifest_sha256": hash_of(values)}))
        monkeypatch.setattr(BackboneSpec, "load", lambda spec: pytest.fail(f"{spec.path} was fetched"))

        assert "set backbone=somebody/model" in self.refusal(bundle, invoke)

    def test_on_the_wrong_backbone_is_refused(self, bundle: Path, command_line: CommandLine, invoke: Invoke) -> None:
        result = invoke("generate", bundle, SOURCE, f"backbone={command_line.tiny.backbone_folder}")

        assert result.exit_code == 1
        assert "weights" in result.stderr
        assert "Traceback" not in result.output
