"""What a run tells of its ranks: their number, and what each sends and holds.

In: a plan whose method is attached, the backbone and the ranks. Out: facts for the log, and sentences for the user.
"""

from collections.abc import Callable

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.training.plan import Plan
from ptl_prefix.training.ranks import Ranks


def rank_facts(plan: Plan, backbone: Backbone, ranks: Ranks, notify: Callable[[str], None]) -> dict[str, int]:
    """The number of ranks and the bytes that each sends per step, for the log; nothing for a single rank.

    Args:
        plan: Plan of the run; its method is attached.
        backbone: Backbone of the run.
        ranks: Ranks that train together; all of them must call this.
        notify: Callback for a line to the user.
    """
    if (ranks.num_ranks, plan.num_ranks) == (1, 1):
        return {}
    num_bytes = ranks.gradient_bytes(plan.method.trainable_parameters().values())
    notify(f"ranks: {ranks.num_ranks}; each sends {num_bytes:,} bytes of gradients per step")
    if ranks.num_ranks != plan.num_ranks:
        notify(
            f"the run was started with {plan.num_ranks} ranks: each step keeps its rows, which are divided anew, "
            "and dropout draws other numbers"
        )
    facts = {"num_ranks": ranks.num_ranks, "synchronised_bytes_per_step": num_bytes}
    if backbone.is_sharded:
        held = facts["backbone_bytes_per_rank"] = ranks.max(backbone.num_local_bytes)
        notify(f"each rank holds {held:,} of the backbone's {backbone.num_bytes:,} bytes")
    return facts
