"""Fixtures of tests/artifacts: the contents of one small bundle."""

from typing import Any

import pytest

from ptl_prefix.artifacts.bundle import BackboneIdentity
from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.prompt_format import PromptFormat


@pytest.fixture(scope="session")
def decoding() -> Decoding:
    return Decoding(
        max_new_tokens=64,
        min_new_tokens=0,
        num_beams=5,
        length_penalty=0.8,
        no_repeat_ngram_size=4,
        do_sample=False,
        temperature=1.0,
        top_p=1.0,
        seed=0,
    )


@pytest.fixture(scope="session")
def identity() -> BackboneIdentity:
    return BackboneIdentity(
        name="tiny_gpt2",
        path="tiny_gpt2",
        family="gpt2",
        weights_fingerprint="a" * 64,
        tokenizer_fingerprint="b" * 64,
    )


@pytest.fixture(scope="session")
def stated(decoding: Decoding, identity: BackboneIdentity) -> dict[str, Any]:
    """What an exporter says of a bundle; all fields of `BundleContents` but the tensors."""
    return {
        "method": "prefix_tuning",
        "settings": {"prefix_length": 5, "layers": [0, 1], "reparam": "mlp", "prefix_dropout": 0.1, "sites": None},
        "task": "table_to_text",
        "task_version": "1",
        "prompt": PromptFormat(before="é ", between="\n=>", truncation="left", max_source_tokens=40),
        "stop_ids": (0, 198),
        "decoding": decoding,
        "label_set": ("yes", "no"),
        "metrics": {"val/loss": 1.0 / 3.0, "test/bleu": 70.3},
        "geometry": {"decoder_self": {"num_layers": 2, "num_kv_heads": 4, "head_dim": 8}},
        "position_law": "shifted",
        "dtype": "bfloat16",
        "backbone": identity,
    }
