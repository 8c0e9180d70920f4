"""What a run was trained on, as fingerprints in its log, and what has changed when it is resumed.

In: the fingerprints of now and the events of a run. Out: the kinds of inputs that differ, or an error that names them.
The newest `inputs` event holds the fingerprints of a run, and every accepted change is recorded.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ptl_prefix.errors import ChangedInputsError

KINDS = ("data", "weights", "tokenizer", "code")
"""The kinds of inputs; the data have a fingerprint for each split, and the code's is the version of this package."""
EVENT = "inputs"

Event = Mapping[str, Any]


def known_fingerprints(events: Iterable[Event]) -> dict[str, str] | None:
    """The fingerprints that a run has by its log; `None` for a run of an earlier version, which has none."""
    found = [event["fingerprints"] for event in events if event["kind"] == EVENT]
    return dict(found[-1]) if found else None


def accepted_changes(events: Iterable[Event]) -> list[str]:
    """What was accepted to differ when a run was resumed, each once: kinds of inputs, and `trainer.max_steps`."""
    events = list(events)
    accepted = [kind for event in events if event["kind"] == EVENT for kind in event.get("accepted", ())]
    if len({event["planned_steps"] for event in events if "planned_steps" in event}) > 1:
        accepted.append("trainer.max_steps")
    return list(dict.fromkeys(accepted))


def changed_inputs(known: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """The keys of the fingerprints that differ, such as `data/train` and `weights`."""
    return [key for key in dict.fromkeys([*known, *found]) if known.get(key) != found.get(key)]


def require_same_inputs(
    known: Mapping[str, str] | None, found: Mapping[str, str], *, accepted: Collection[str], folder: object
) -> Sequence[str]:
    """Require that a resumed run has the inputs that it has by its log, except for accepted kinds.

    Args:
        known: Fingerprints in the log; `None` for a run without any.
        found: Fingerprints of now.
        accepted: Kinds that may differ.
        folder: Run folder, for the message.

    Returns:
        The accepted kinds that do differ.

    Raises:
        ChangedInputsError: If another kind differs; the message names each.
    """
    changed = [] if known is None else changed_inputs(known, found)
    kinds = [kind for kind in KINDS if any(key.partition("/")[0] == kind for key in changed)]
    if set(kinds) <= set(accepted):
        return kinds
    facts = ", ".join(_describe(key, known or {}, found) for key in changed)
    raise ChangedInputsError(
        f"A resumed run must have the data, weights, tokenizer and code that it was trained with, but these differ: "
        f"{facts}. Nothing was changed. Restore them, or accept and record the change with: "
        f"ptl-prefix train resume={folder} resume_anyway=[{','.join(kinds)}]"
    )


def _describe(key: str, known: Mapping[str, str], found: Mapping[str, str]) -> str:
    kind, _, split = key.partition("/")
    if kind == "code":
        return f"code (ptl_prefix {known.get(key)} then, {found.get(key)} now)"
    return f"{kind} ({split} split)" if split else kind
