"""Folders of many bundles, each a plain prefix of other numbers.

In: a folder, a backbone, a number. Out: the bundles, as a server finds them.
"""

from pathlib import Path

import torch

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.data.tasks.table_to_text import TableToText
from ptl_prefix.methods.prefix_tuning import PrefixTuning
from ptl_prefix.settings import defaults_of
from ptl_prefix.training.export import export_bundle

_PREFIX_LENGTH = 4


def write_bundles(folder: Path, backbone: Backbone, number: int) -> None:
    """Write bundles into subfolders that are named by numbers."""
    task = TableToText()
    method = PrefixTuning(prefix_length=_PREFIX_LENGTH, reparam="none").attach(backbone)
    generator = torch.Generator().manual_seed(0)
    for index in range(number):
        with torch.no_grad():
            for parameter in method.trainable_parameters().values():
                parameter.normal_(generator=generator)
        export_bundle(
            folder / str(index),
            backbone=backbone,
            method=method,
            task=task,
            prompter=backbone.prompter(task.prompt),
            decoding=Decoding(**defaults_of("generation/greedy")),
            metrics={},
        )
    method.detach()
