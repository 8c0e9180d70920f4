"""The rank of this process, and the number of ranks.

In: environment variables: torchrun's, which `ptl-prefix` also sets for the ranks that it starts, or those of Slurm's
srun. Out: a `RankEnvironment`, or `None`. Nothing heavy is imported, as the command line asks before anything else.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from ptl_prefix.data.rank_share import RankShare


@dataclass(frozen=True, kw_only=True)
class RankEnvironment:
    """A process that is one of several ranks.

    Args:
        share: Rank of the process and number of ranks.
        local_rank: Rank on its machine, which is the index of its GPU.
        is_slurm: Whether Slurm started it, which sets no rendezvous address.
    """

    share: RankShare
    local_rank: int
    is_slurm: bool = False


_NAMES = (
    # Rank, number of ranks, rank on the machine. torchrun comes first: it can be started by Slurm.
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    # Variables of a step that srun started: a batch script has those of the job, and is no rank.
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
)


def find_rank_environment(environment: Mapping[str, str] = os.environ) -> RankEnvironment | None:
    """The rank of this process; `None` if it is not one of several."""
    for names in _NAMES:
        if all(environment.get(name, "").isdigit() for name in names):
            rank, num_ranks, local_rank = (int(environment[name]) for name in names)
            if num_ranks > 1:
                return RankEnvironment(
                    share=RankShare(rank, num_ranks), local_rank=local_rank, is_slurm="PROCID" in names[0]
                )
    return None


def is_nonzero_rank() -> bool:
    """Whether rank 0 prints and writes for this process."""
    environment = find_rank_environment()
    return environment is not None and not environment.share.is_rank_zero
