"""What is simulated: the study, the machines, the storage, and how often each of them fails.

In: numbers from the command line. Out: `ClusterSettings`, from which everything else follows, and the made-up training
of a trial, which depends on its number alone.
"""

import math
import random
from dataclasses import dataclass

NEVER = math.inf


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """A study on a cluster.

    Args:
        trials: Trials of the study.
        workers: Workers, in nodes of `workers_per_node`.
        workers_per_node: Workers of one machine.
        seed: Seed of every random draw.
        pruner: `none`, `median` or `successive_halving`.
        max_steps: Optimizer steps of a trial that is neither paused nor pruned.
        validate_every: Steps between two validations, each of which saves a checkpoint.
        step_s: Seconds of a step on a node of average speed.
        start_s: Seconds from the start of a trial's process to its first step.
        compose_s: Seconds in which a worker composes a trial's config, without the lock.
        decision_s: Seconds of a worker's processor for one decision under the lock, apart from the storage.
        replay_s: Seconds of a worker's processor to read one entry of the journal that another worker wrote.
        latency_s: Median of the seconds of one read or append of the storage.
        one_at_a_time: Whether appends wait for each other, as those to a journal file do.
        worker_lives_s: Mean seconds until a worker's process dies.
        trial_lives_s: Mean seconds until a trial's process is killed, for example for memory.
        node_lives_s: Mean seconds until a node dies, with everything on it.
        preempted_every_s: Mean seconds until a node is preempted.
        notice_s: Seconds between the signal of a preemption and its end.
        restart_s: Mean seconds until a worker or node starts again.
        cut_off_every_s: Mean seconds until a node loses its connection to the storage, while its trials run on.
        cut_off_s: Longest of these interruptions, in seconds.
        outage_every_s: Mean seconds until the storage hangs for all nodes.
        dies_deciding: Probability that a worker dies at one of the writes of a decision, while it has the lock.
        clock_error_s: Largest error of a node's clock, in seconds.
    """

    trials: int = 10_000
    workers: int = 1_000
    workers_per_node: int = 8
    seed: int = 0
    pruner: str = "successive_halving"
    max_steps: int = 900
    validate_every: int = 100
    step_s: float = 0.4
    start_s: float = 10.0
    compose_s: float = 0.2
    decision_s: float = 0.02
    replay_s: float = 2e-5
    latency_s: float = 0.002
    one_at_a_time: bool = True
    worker_lives_s: float = 3600.0
    trial_lives_s: float = 10 * 3600.0
    node_lives_s: float = 2 * 3600.0
    preempted_every_s: float = 3600.0
    notice_s: float = 30.0
    restart_s: float = 180.0
    cut_off_every_s: float = 3600.0
    cut_off_s: float = 300.0
    outage_every_s: float = 900.0
    dies_deciding: float = 0.002
    clock_error_s: float = 2.0


def objective(number: int, step: int) -> float:
    """The made-up validation loss of a trial: it falls to a limit that differs from trial to trial."""
    draws = random.Random(number)
    limit, rate = 2.0 + draws.random() ** 2, 100.0 + 200.0 * draws.random()
    return limit + 3.0 * math.exp(-step / rate)


SCAN = [
    ClusterSettings(trials=300, workers=100, step_s=step_s, start_s=20 * step_s, latency_s=latency_s)
    for step_s in (0.4, 0.1, 0.05, 0.025, 0.0125)
    for latency_s in (0.002, 0.02)
]
"""Shorter and shorter trials on two storages: where the lock of a study stops being enough."""
