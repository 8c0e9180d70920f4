import pytest

from ptl_prefix.artifacts.input_fingerprints import accepted_changes, known_fingerprints, require_same_inputs
from ptl_prefix.errors import ChangedInputsError

KNOWN = {"data/train": "a", "data/validation": "b", "weights": "c", "tokenizer": "d", "code": "0.1.0"}


@pytest.mark.parametrize(
    ("changes", "fact", "kinds"),
    [
        ({"data/train": "x"}, r"data \(train split\)\.", "[data]"),
        ({"data/train": "x", "data/validation": "x"}, r"data \(train split\), data \(validation split\)\.", "[data]"),
        ({"data/test": "new"}, r"data \(test split\)", "[data]"),
        ({"weights": "x", "tokenizer": "x"}, r"weights, tokenizer\.", "[weights,tokenizer]"),
        ({"code": "0.2.0"}, r"code \(ptl_prefix 0\.1\.0 then, 0\.2\.0 now\)", "[code]"),
    ],
)
def test_every_difference_is_named_with_the_way_to_accept_it(changes: dict[str, str], fact: str, kinds: str) -> None:
    found = {**KNOWN, **changes}

    with pytest.raises(ChangedInputsError, match=fact) as refusal:
        require_same_inputs(KNOWN, found, accepted=(), folder="run")

    assert f"ptl-prefix train resume=run resume_anyway={kinds}" in str(refusal.value)
    accepted = kinds.strip("[]").split(",")
    assert require_same_inputs(KNOWN, found, accepted=accepted, folder="run") == accepted


def test_what_is_accepted_covers_its_kind_alone() -> None:
    found = {**KNOWN, "weights": "x", "data/train": "x"}

    with pytest.raises(ChangedInputsError, match="weights"):
        require_same_inputs(KNOWN, found, accepted=["data"], folder="run")
    assert require_same_inputs(KNOWN, KNOWN, accepted=["data", "weights"], folder="run") == []


def test_a_run_without_fingerprints_is_resumed() -> None:
    assert known_fingerprints([{"kind": "begun", "step": 0}]) is None
    assert require_same_inputs(None, KNOWN, accepted=(), folder="run") == []


def test_the_newest_fingerprints_count_and_every_accepted_change_is_kept() -> None:
    events = [
        {"kind": "inputs", "fingerprints": {"weights": "old"}, "accepted": []},
        {"kind": "attached", "planned_steps": 6},
        {"kind": "inputs", "fingerprints": {"weights": "new"}, "accepted": ["weights"]},
        {"kind": "resumed", "planned_steps": 12},
    ]

    assert known_fingerprints(events) == {"weights": "new"}
    assert accepted_changes(events) == ["weights", "trainer.max_steps"]
    assert accepted_changes(events[:2]) == []
