"""Where a prompt starts: at embeddings of common tokens, or of a task's labels (Lester et al. 2021, section 3.2).

In: a backbone. Out: rows as wide as its embeddings, as large as its layers are given them.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ptl_prefix.backbones.backbone import Backbone

_NUM_COMMON = 5000
"""Of how many tokens samples are drawn, as in the paper."""


def sampled_embeddings(backbone: Backbone, length: int) -> Float[Tensor, "length width"]:
    """Embeddings of tokens drawn from the most common ones, none twice while there are others.

    Vocabularies are ordered by how common their tokens are, or by the order in which they were merged, which is nearly
    that: the first ids are taken, special ones left out.
    """
    special = set(backbone.tokenizer.all_special_ids)
    common = [i for i in range(min(len(backbone.tokenizer), backbone.config.vocab_size)) if i not in special]
    ids = torch.tensor(common[:_NUM_COMMON])
    drawn = torch.cat([torch.randperm(len(ids)) for _ in range(-(-length // len(ids)))])[:length]
    return backbone.embed(ids[drawn])


def label_embeddings(backbone: Backbone, labels: Sequence[str]) -> Float[Tensor, "labels width"]:
    """One row a label: the mean over its tokens' embeddings."""
    rows = []
    for label in labels:
        ids: list[int] = backbone.tokenizer(label, add_special_tokens=False).input_ids
        rows.append(backbone.embed(torch.tensor(ids)).mean(dim=0))
    return torch.stack(rows)
