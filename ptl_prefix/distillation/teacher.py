"""What a teacher predicts at each token of an answer.

In: a backbone, a prompt that holds a text and a question, and the answer. Out: the most likely ids and their
log-probabilities at each token of the answer, those of its end included.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ptl_prefix.artifacts.teacher_file import NO_ID, TeacherTokens
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import left_padded
from ptl_prefix.errors import NonFiniteLossError


@torch.no_grad()
def teacher_tokens(
    backbone: Backbone, prompt: Sequence[int], answer: Sequence[int], *, top_k: int, top_mass: float
) -> TeacherTokens:
    """The teacher's log-probabilities at the tokens of one answer.

    The prompt is read alone: its numbers do not depend on what is computed beside it, nor on padding.

    Args:
        backbone: The teacher, with nothing attached to it.
        prompt: Ids of the prompt, the start of the reply included.
        answer: Ids of the answer, its end included.
        top_k: Largest number of ids that are kept at each token.
        top_mass: Probability mass; fewer ids are kept where they have it together.

    Raises:
        NonFiniteLossError: The backbone's logits are not finite.
    """
    inputs = left_padded([[*prompt, *answer[:-1]]], backbone.pad_id).to(backbone.device)
    columns = slice(len(prompt) - 1, None)  # the logits in a column predict the next one
    mode = backbone.model.training
    backbone.model.eval()
    try:
        with backbone.slots.exclusive():
            logits = backbone.target_logits(inputs, (slice(None), columns))[0]
    finally:
        backbone.model.train(mode)
    if not bool(torch.isfinite(logits.amax(dim=-1)).all()):
        raise NonFiniteLossError(
            f"A teacher's logits must be finite, but those of {backbone.name} in {backbone.precision} are not; set "
            "backbone.dtype=float32."
        )
    ids, log_probs = most_likely(logits.float().log_softmax(dim=-1), top_k=top_k, top_mass=top_mass)
    return TeacherTokens(token_ids=torch.tensor(list(answer), dtype=torch.int32), top_ids=ids, top_log_probs=log_probs)


def most_likely(log_probs: Float[Tensor, "tokens vocabulary"], *, top_k: int, top_mass: float) -> tuple[Tensor, Tensor]:
    """The most likely ids of each row and their log-probabilities; see `TeacherTokens`.

    The most likely id is always kept, and each next one as long as those before it have less than `top_mass`.
    """
    found = log_probs.topk(min(top_k, log_probs.shape[-1]), dim=-1)
    probabilities = found.values.double().exp()
    is_kept = probabilities.cumsum(dim=-1) - probabilities < top_mass  # (tokens, kept)
    ids = found.indices.masked_fill(~is_kept, NO_ID).int().cpu()
    return ids, found.values.masked_fill(~is_kept, -torch.inf).float().cpu()
