"""A teacher's log-probabilities at the tokens of answers, as the bytes of a safetensors file.

In: `TeacherTokens` of some conversations. Out: bytes, and the same read back; else `DocumentError`. The rows of all
conversations stand one below the other, and `ends` says where each conversation's rows end.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import safetensors.torch
import torch
from jaxtyping import Float32, Int32
from safetensors import SafetensorError
from torch import Tensor

from ptl_prefix.artifacts.json_document import DocumentError

NO_ID = -1
"""In the place of an id where fewer are kept."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TeacherTokens:
    """What a teacher predicted at each token of one answer.

    Args:
        token_ids: Ids of the answer, those of its end included.
        top_ids: Ids of the most likely tokens at each place, the most likely first; -1 where fewer are kept.
        top_log_probs: Their natural log-probabilities; -inf where `top_ids` is -1.
    """

    token_ids: Int32[Tensor, " tokens"]
    top_ids: Int32[Tensor, "tokens kept"]
    top_log_probs: Float32[Tensor, "tokens kept"]


def teacher_bytes(answers: Sequence[TeacherTokens]) -> bytes:
    """The bytes of a file of these answers, which have one number of columns.

    Raises:
        DocumentError: They cannot be read back, such as log-probabilities that are not finite.
    """
    lengths = torch.tensor([len(answer.token_ids) for answer in answers], dtype=torch.int64)
    tensors = {
        "ends": lengths.cumsum(0),
        "token_ids": torch.cat([answer.token_ids for answer in answers]),
        "top_ids": torch.cat([answer.top_ids for answer in answers]),
        "top_log_probs": torch.cat([answer.top_log_probs for answer in answers]),
    }
    if fact := _problem(tensors):
        raise DocumentError(fact)
    return safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})


def parse_teacher(content: bytes) -> list[TeacherTokens]:
    """The answers in a file, in their order.

    Raises:
        DocumentError: The bytes are no such file.
    """
    try:
        tensors = safetensors.torch.load(content)
    except (SafetensorError, ValueError, TypeError, LookupError, RuntimeError) as error:
        raise DocumentError(f"is not a safetensors file ({error})") from error
    if fact := _problem(tensors):
        raise DocumentError(fact)
    ends = [0, *tensors["ends"].tolist()]
    names = ("token_ids", "top_ids", "top_log_probs")
    return [TeacherTokens(**{name: tensors[name][start:end] for name in names}) for start, end in pairwise(ends)]


def _problem(tensors: dict[str, Tensor]) -> str | None:
    """Why tensors are no answers, as the end of a sentence about their file."""
    wanted = {"ends": torch.int64, "token_ids": torch.int32, "top_ids": torch.int32, "top_log_probs": torch.float32}
    if {name: tensor.dtype for name, tensor in tensors.items()} != wanted:
        return f"holds {', '.join(sorted(tensors)) or 'nothing'}, not {', '.join(wanted)} in their dtypes"
    ends, ids = tensors["ends"], tensors["token_ids"]
    top_ids, log_probs = tensors["top_ids"], tensors["top_log_probs"]
    if ends.dim() != 1 or ids.dim() != 1 or top_ids.dim() != 2 or top_ids.shape != log_probs.shape:
        return "holds tensors of other shapes"
    steps = ends.diff(prepend=ends.new_zeros(1))
    if len(ends) == 0 or bool((steps < 1).any()) or int(ends[-1]) != len(ids) or len(ids) != len(top_ids):
        return "holds answers whose ends do not divide its tokens"
    is_kept = top_ids != NO_ID
    if bool((ids < 0).any() | (top_ids < NO_ID).any() | (log_probs[is_kept] > 0).any()):
        return "holds ids or log-probabilities that cannot be"
    if bool((log_probs[~is_kept] != -math.inf).any() | ~torch.isfinite(log_probs[is_kept]).all()):
        return "holds log-probabilities that are not finite"
    return None
