"""Writes a Kubernetes Job that runs a study: each pod is a worker that joins the study.

In: an existing study, in a volume that every pod mounts or mirrored in an object store, and the settings of
`ptl-prefix sweep export`. Out: `kubernetes.yaml` in the study's folder.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.commands.sweep.study_folder import Study

KUBERNETES_FILE = "kubernetes.yaml"

_GRACE_S = 180
"""Seconds from SIGTERM to SIGKILL: a worker may take two minutes to stop its trial with a checkpoint."""
_STOPPED, _REFUSED = 143, 2
"""Exit codes of a worker that was stopped on request, and of one that the study's settings keep from starting."""
_MOST_FAILURES = 5
_VOLUME = "studies"


def write_kubernetes_job(study: Study, settings: Mapping[str, Any]) -> Path:
    """Write the Job into the study's folder.

    Args:
        study: The study.
        settings: The settings of `conf/sweep.yaml` whose names begin with `kubernetes_`.
    """
    path = study.folder.resolve() / KUBERNETES_FILE
    head = f"# Workers of the study {study.spec.name}. Pods may be deleted and started again at any time.\n"
    document = yaml.safe_dump(_job(study, settings), sort_keys=False, allow_unicode=True)
    write_atomically(path, head + document)
    return path


def kubernetes_problems(study: Study, settings: Mapping[str, Any]) -> list[str]:
    """What keeps a study from running as a Job, one sentence each."""
    needed = {"image": "the container image with ptl_prefix"}
    if study.address_to_join is None:
        needed["claim"] = (
            "the PersistentVolumeClaim with the study's folder and the data; only a study with an `outputs_url` and "
            "its trials in PostgreSQL needs none"
        )
    problems = [
        f"`kubernetes_{key}` must be given: {meaning}."
        for key, meaning in needed.items()
        if settings[f"kubernetes_{key}"] is None
    ]
    for key in ("claim", "secret", "namespace"):
        if (name := settings[f"kubernetes_{key}"]) is not None and not _is_object_name(name):
            problems.append(
                f"`kubernetes_{key}` must be the name of an object of Kubernetes (a-z, 0-9, - and .), but is {name!r}."
            )
    memory = settings["kubernetes_memory"]
    if memory is not None and re.fullmatch(r"\d+(\.\d+)?([EPTGM]i?|Ki|k)?", memory) is None:
        problems.append(f"`kubernetes_memory` must be a quantity such as 16Gi, but is {memory!r}.")
    mount = settings["kubernetes_mount"]
    if not mount.startswith("/") or mount == "/":
        problems.append(f"`kubernetes_mount` must be an absolute path below /, but is {mount!r}.")
    if settings["kubernetes_claim"] is not None and not study.folder.resolve().is_relative_to(Path.cwd()):
        problems.append(
            f"The study must be below the working directory, which is the volume's root in the pods, but "
            f"{study.folder.resolve()} is not below {Path.cwd()}; export it from the folder in which it was created."
        )
    return problems


def _is_object_name(name: str) -> bool:
    return len(name) <= 253 and re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", name) is not None


def _job(study: Study, settings: Mapping[str, Any]) -> dict[str, Any]:
    name, labels = _job_name(study.spec.name), {"app.kubernetes.io/name": "ptl-prefix"}
    namespace = settings["kubernetes_namespace"]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels} | ({"namespace": namespace} if namespace else {}),
        "spec": {
            # Indexed: each worker has a number of its own, which its pod's name and log show.
            "completionMode": "Indexed",
            "completions": study.spec.n_jobs,
            "parallelism": study.spec.n_jobs,
            "backoffLimitPerIndex": _MOST_FAILURES,
            "maxFailedIndexes": study.spec.n_jobs,  # a worker that gives up does not end the others
            "podFailurePolicy": {"rules": _failure_rules()},
            "template": {"metadata": {"labels": labels}, "spec": _pod(study, settings)},
        },
    }


def _failure_rules() -> Sequence[dict[str, Any]]:
    """When a pod is replaced: the first rule that fits decides, and without one the pod is replaced some times."""
    ended = {"containerName": "worker", "operator": "In", "values": [_REFUSED, _STOPPED]}
    return [
        # The node was drained or preempted, or the scheduler needed its place: the worker continues elsewhere.
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        # `sweep stop`, or settings that no second try would change.
        {"action": "FailIndex", "onExitCodes": ended},
    ]


def _pod(study: Study, settings: Mapping[str, Any]) -> dict[str, Any]:
    mount, secret, claim = (settings[f"kubernetes_{key}"] for key in ("mount", "secret", "claim"))
    # A pod without the volume fetches the study, and mirrors its trials: what it writes may vanish with it.
    place = study.address_to_join if claim is None else study.folder.resolve().relative_to(Path.cwd())
    volume = {"emptyDir": {}} if claim is None else {"persistentVolumeClaim": {"claimName": claim}}
    container = {
        "name": "worker",
        "image": settings["kubernetes_image"],
        "command": ["ptl-prefix", "sweep", "worker", str(place)],
        # Relative paths in the trials' settings are those of the folder in which the study was created.
        "workingDir": mount,
        "resources": _resources(study, settings),
        "volumeMounts": [{"name": _VOLUME, "mountPath": mount}],
    }
    if secret is not None:
        container["envFrom"] = [{"secretRef": {"name": secret}}]
    return {
        "restartPolicy": "Never",  # a failed pod is replaced by the Job, as the rules of failures need
        "terminationGracePeriodSeconds": _GRACE_S,
        "containers": [container],
        "volumes": [{"name": _VOLUME, **volume}],
    }


def _resources(study: Study, settings: Mapping[str, Any]) -> dict[str, Any]:
    asked = {"cpu": str(int(study.spec.cpus_of_worker))}
    if settings["kubernetes_memory"] is not None:
        asked["memory"] = settings["kubernetes_memory"]
    if study.spec.gpus_of_worker:
        asked[settings["kubernetes_gpu"]] = str(int(study.spec.gpus_of_worker))
    # Without a limit on CPUs: a worker may use what is idle. Devices and memory must not be shared.
    return {"requests": asked, "limits": {key: value for key, value in asked.items() if key != "cpu"}}


def _job_name(study: str) -> str:
    """A name of an object of Kubernetes: pods add their index and five letters, and may have 63 characters."""
    return f"sweep-{re.sub('[^a-z0-9]+', '-', study.lower()).strip('-')}"[:50].rstrip("-")
