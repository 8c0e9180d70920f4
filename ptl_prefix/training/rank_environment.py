"""Which rank of how many this process is, as whoever started it left word in the environment.

In: environment variables: torchrun's, which `ptl-prefix` sets, too, where it starts ranks itself; or those of Slurm's
srun. Out: a `RankEnvironment`, or none. Nothing heavy is imported: the command line asks before it knows what there is
to do.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from ptl_prefix.data.rank_share import RankShare


@dataclass(frozen=True, kw_only=True)
class RankEnvironment:
    """A process among the ranks of a run.

    Args:
        share: Which rank it is, of how many.
        local_rank: Which one on its machine: its GPU.
        is_slurms: Whether Slurm started it, which names no meeting point.
    """

    share: RankShare
    local_rank: int
    is_slurms: bool = False


_NAMES = (
    # Its rank, their number, its rank on the machine. torchrun first: it can be started by Slurm.
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    # Of a step that srun started: a batch script has the job's variables, and is no rank.
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
)


def find_rank_environment(environment: Mapping[str, str] = os.environ) -> RankEnvironment | None:
    """This process's place; `None` if it is not one of several."""
    for names in _NAMES:
        if all(environment.get(name, "").isdigit() for name in names):
            rank, num_ranks, local_rank = (int(environment[name]) for name in names)
            if num_ranks > 1:
                return RankEnvironment(
                    share=RankShare(rank, num_ranks), local_rank=local_rank, is_slurms="PROCID" in names[0]
                )
    return None


def is_later_rank() -> bool:
    """Whether another process speaks and writes for this one."""
    place = find_rank_environment()
    return place is not None and not place.share.is_first
