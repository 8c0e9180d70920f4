"""A backbone like another one that was just loaded, in a tenth of the time that loading takes."""

import copy

from ptl_prefix.backbones.backbone import Backbone


def copied(loaded: Backbone) -> Backbone:
    """A backbone with a copy of the model and of the tokenizer; what is known of the files is known of it, too.

    Bits are equal between two copies alone: weights loaded from a file lie where the file has them, a copy's at
    multiples of 64 bytes, and a processor may add up numbers in another order where they lie elsewhere.

    Args:
        loaded: A backbone that no method has been attached to, without gradient checkpointing.
    """
    return Backbone(
        model=copy.deepcopy(loaded.model),
        tokenizer=copy.deepcopy(loaded.tokenizer),
        name=loaded.name,
        path=loaded.path,
        base_mode=loaded.base_mode,
        quantization=loaded.quantization,
        fingerprints=loaded._fingerprints,
        first_fingerprints=loaded._first_fingerprints,
    )
