"""How large what is trained has become: what a log shows beside the gradient's norm."""

import torch

from ptl_prefix.methods.method import Method
from ptl_prefix.methods.prefix_tuning import PrefixTuning


@torch.no_grad()
def norms(method: Method) -> dict[str, float]:
    """`norm/trained`, of all trained parameters together; of a prefix also its keys' and values' mean norms, by site.

    Args:
        method: Attached.
    """
    trained = [parameter.detach().float() for parameter in method.trainable_parameters().values()]
    found = {"norm/trained": float(torch.stack(torch._foreach_norm(trained)).norm())}
    for part in method.modules():
        if isinstance(part, PrefixTuning):
            tensors = part.export()[1]
            found |= {f"norm/{name}": float(tensor.norm(dim=-1).mean()) for name, tensor in tensors.items()}
    return found
