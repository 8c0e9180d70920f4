"""The study that is simulated: one arm that draws random learning rates.

In: `ClusterSettings`. Out: its specification and its pruner.
"""

from benchmarks.sweep_scale.settings import ClusterSettings
from ptl_prefix.sweeping.pruners import NoPruner, Percentile, Pruner, SuccessiveHalving
from ptl_prefix.sweeping.search_space import Numbers, SearchSpace
from ptl_prefix.sweeping.study_spec import Arm, StudySpec


def make_pruner(settings: ClusterSettings) -> Pruner:
    """The pruner of a name."""
    if settings.pruner == "successive_halving":
        return SuccessiveHalving(min_steps=settings.validate_every, reduction_factor=3)
    if settings.pruner == "median":
        return Percentile(percentile=50.0, n_startup_trials=5, n_warmup_steps=0)
    return NoPruner()


def make_spec(settings: ClusterSettings) -> StudySpec:
    """The specification of a study."""
    rates = SearchSpace({"optimizer.lr": Numbers(low=1e-5, high=1e-1, log=True)})
    return StudySpec(
        name="simulated",
        token="abc123",
        config_name="train",
        overrides=(),
        arms=[Arm(name="", overrides=(), space=rates)],
        direction="minimize",
        objective="val/loss",
        sampler={},
        pruner={},
        max_failure_rate=0.5,
        executor="local",
        num_cpus=None,
        num_gpus=None,
        ray_address="auto",
        n_jobs=settings.workers_per_node,
        pack=1,
        threads=1,
        devices=[],
        warm=True,
        reuse=False,
        n_trials=settings.trials,
        budget_s=None,
        budget_tokens=None,
        confirm_top_k=0,
        confirm_seeds=[],
        confirm_overrides=[],
        code="",
    )
