"""Initial rows of a prompt: embeddings of common tokens, or of a task's labels (Lester et al., 2021, section 3.2).

In: a backbone. Out: rows of its embeddings, as its first layer receives them.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ptl_prefix.backbones.backbone import Backbone

_NUM_COMMON = 5000
"""Number of most common tokens to sample from, as in the paper."""


def sampled_embeddings(backbone: Backbone, length: int) -> Float[Tensor, "length width"]:
    """Embeddings of tokens drawn from the most common ones, without replacement while there are enough.

    The most common tokens are the first ids, special tokens left out: vocabularies are ordered by frequency or by the
    order of merges, which is close to it.
    """
    special = set(backbone.tokenizer.all_special_ids)
    common = [i for i in range(min(len(backbone.tokenizer), backbone.config.vocab_size)) if i not in special]
    ids = torch.tensor(common[:_NUM_COMMON])
    drawn = torch.cat([torch.randperm(len(ids)) for _ in range(-(-length // len(ids)))])[:length]
    return backbone.embed(ids[drawn])


def label_embeddings(backbone: Backbone, labels: Sequence[str]) -> Float[Tensor, "labels width"]:
    """One row per label: the mean of its tokens' embeddings."""
    rows = []
    for label in labels:
        ids: list[int] = backbone.tokenizer(label, add_special_tokens=False).input_ids
        rows.append(backbone.embed(torch.tensor(ids)).mean(dim=0))
    return torch.stack(rows)
