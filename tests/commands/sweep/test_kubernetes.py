"""The Kubernetes Job of a study, checked against the schema that Kubernetes publishes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from support.study_schedulers import spec

from ptl_prefix.commands.sweep.export_study import export_study, next_command
from ptl_prefix.commands.sweep.kubernetes import kubernetes_problems, write_kubernetes_job
from ptl_prefix.commands.sweep.study_folder import Study
from ptl_prefix.errors import ConfigError
from ptl_prefix.settings import defaults_of

SETTINGS: dict[str, Any] = {
    **defaults_of("sweep"),
    "kubernetes_image": "registry.example.org/ptl-prefix:0.1.0",
    "kubernetes_claim": "studies",
}
ALL: dict[str, Any] = {
    **SETTINGS,
    "kubernetes_secret": "study-environment",
    "kubernetes_memory": "16Gi",
    "kubernetes_namespace": "nlp",
}
VERSIONS = ("1.31", "1.37")
"""`podFailurePolicy` and `backoffLimitPerIndex` are stable from 1.31 and 1.33 on, and on by default in both."""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "outputs/sweeps/My_lengths"
    folder.mkdir(parents=True)
    return Study(folder, spec(name="My_lengths", n_jobs=4, threads=2, num_gpus=1.0), None)


def job_of(study: Study, settings: dict[str, Any]) -> dict[str, Any]:
    job = yaml.safe_load(write_kubernetes_job(study, settings).read_text())
    assert isinstance(job, dict)
    return job


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("settings", [SETTINGS, ALL], ids=["fewest settings", "all settings"])
def test_the_job_is_valid(study: Study, settings: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(job_of(study, settings), version, strict=True)


@pytest.fixture
def mirrored(study: Study) -> Study:
    """A study that machines without a shared disk can join."""
    (study.folder / "configs").mkdir()
    (study.folder / "configs/first.yaml").write_text("outputs_url: s3://runs/outputs\n")
    return replace(study, storage="postgresql://study-db/postgres")


@pytest.mark.parametrize("version", VERSIONS)
def test_pods_of_a_mirrored_study_need_no_volume(mirrored: Study, version: str) -> None:
    settings = {**SETTINGS, "kubernetes_claim": None}

    assert kubernetes_problems(mirrored, settings) == []
    job = job_of(mirrored, settings)

    kubernetes_validate.validate(job, version, strict=True)
    pod = job["spec"]["template"]["spec"]
    assert pod["containers"][0]["command"][-1] == "s3://runs/outputs/sweeps/My_lengths-abc123"
    assert pod["volumes"] == [{"name": pod["containers"][0]["volumeMounts"][0]["name"], "emptyDir": {}}]
    assert "kubernetes_claim" not in next_command(mirrored, "kubernetes")
    with_volume = job_of(mirrored, SETTINGS)["spec"]["template"]["spec"]
    assert with_volume["containers"][0]["command"][-1] == "outputs/sweeps/My_lengths"


def test_a_misspelt_key_would_be_found(study: Study) -> None:
    job = job_of(study, SETTINGS)
    job["spec"]["template"]["spec"]["restartPolicies"] = "Never"

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, VERSIONS[-1], strict=True)


def test_each_pod_is_a_worker_with_a_number(study: Study) -> None:
    job = job_of(study, ALL)

    assert job["metadata"] == {
        "name": "sweep-my-lengths",
        "labels": {"app.kubernetes.io/name": "ptl-prefix"},
        "namespace": "nlp",
    }
    assert (job["spec"]["completionMode"], job["spec"]["completions"], job["spec"]["parallelism"]) == ("Indexed", 4, 4)
    (worker,) = job["spec"]["template"]["spec"]["containers"]
    assert worker["command"] == ["ptl-prefix", "sweep", "worker", "outputs/sweeps/My_lengths"]
    assert worker["workingDir"] == "/work" == worker["volumeMounts"][0]["mountPath"]
    assert worker["envFrom"] == [{"secretRef": {"name": "study-environment"}}]
    assert worker["resources"] == {
        "requests": {"cpu": "2", "memory": "16Gi", "nvidia.com/gpu": "1"},
        "limits": {"memory": "16Gi", "nvidia.com/gpu": "1"},
    }


def test_a_pod_that_is_told_to_stop_has_time_for_a_checkpoint_and_is_replaced_if_its_node_went(study: Study) -> None:
    job = job_of(study, SETTINGS)

    pod = job["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] >= 120 + 30, "a worker may take two minutes to stop a trial"
    assert pod["restartPolicy"] == "Never", "rules of failures need this"
    disruption, stop = job["spec"]["podFailurePolicy"]["rules"]
    assert disruption["action"] == "Ignore" and disruption["onPodConditions"][0]["type"] == "DisruptionTarget"
    assert stop["action"] == "FailIndex" and stop["onExitCodes"]["values"] == [2, 143]
    assert stop["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
    assert job["spec"]["maxFailedIndexes"] == 4, "a worker that gives up does not end the others"


def test_without_gpus_none_is_asked_for(study: Study) -> None:
    job = job_of(replace(study, spec=replace(study.spec, num_gpus=None)), SETTINGS)

    (worker,) = job["spec"]["template"]["spec"]["containers"]
    assert worker["resources"] == {"requests": {"cpu": "2"}, "limits": {}}
    assert "envFrom" not in worker


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"kubernetes_image": None}, "`kubernetes_image` must be given: the container image"),
        ({"kubernetes_claim": None}, "`kubernetes_claim` must be given: the PersistentVolumeClaim"),
        ({"kubernetes_claim": "My claim"}, "`kubernetes_claim` must be the name of an object of Kubernetes"),
        ({"kubernetes_secret": "a_b"}, "`kubernetes_secret` must be the name of an object"),
        ({"kubernetes_memory": "16 GB"}, "`kubernetes_memory` must be a quantity such as 16Gi, but is '16 GB'"),
        ({"kubernetes_mount": "work"}, "`kubernetes_mount` must be an absolute path below /, but is 'work'"),
    ],
)
def test_a_mistake_is_refused(study: Study, changes: dict[str, Any], fact: str) -> None:
    (problem,) = kubernetes_problems(study, SETTINGS | changes)

    assert fact in problem


def test_all_mistakes_are_named_at_once_and_nothing_is_written(study: Study) -> None:
    fractions = replace(study, spec=replace(study.spec, num_gpus=0.5))

    with pytest.raises(ConfigError) as refusal:
        export_study(fractions, "kubernetes", dict(defaults_of("sweep")))

    gpus, image, claim = refusal.value.mistakes
    assert "`hydra.sweeper.num_gpus` must be whole" in gpus
    assert "`kubernetes_image`" in image and "`kubernetes_claim`" in claim
    assert not (study.folder / "kubernetes.yaml").exists()


def test_a_study_elsewhere_than_below_the_working_directory_is_refused(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(study.folder)

    (problem,) = kubernetes_problems(replace(study, folder=study.folder.parent), SETTINGS)

    assert "The study must be below the working directory" in problem


def test_the_command_that_submits_the_job_is_told(study: Study) -> None:
    told = export_study(study, "kubernetes", SETTINGS)

    assert told == f"kubectl apply --filename {study.folder}/kubernetes.yaml"
    assert "ptl-prefix sweep export" in next_command(study, "kubernetes")
    with pytest.raises(ConfigError, match="can only write for slurm or kubernetes, but got 'pbs'"):
        export_study(study, "pbs", SETTINGS)
