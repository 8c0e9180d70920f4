"""What a method may cost.

In: limits, each optional. Out: which rows of a comparison keep all of them, and what each other row exceeds.
"""

from dataclasses import dataclass, fields

from ptl_prefix.reporting.comparison_record import RowRecord

_COSTS = {
    "max_trainable_parameters": ("num_trainable", "trains {:,} parameters"),
    "max_stored_parameters": ("num_stored", "stores {:,} parameters"),
    "max_bundle_bytes": ("bundle_bytes", "has a bundle of {:,} bytes"),
    "max_steps": ("steps", "was trained for {:,.0f} steps"),
    "max_tokens": ("tokens", "was trained on {:,.0f} tokens"),
    "max_peak_memory_bytes": ("peak_memory_bytes", "needed {:,} bytes of memory"),
}
"""For each limit, the cost that it limits, and how a sentence states that cost."""

_UNKNOWN = {"bundle_bytes": "has no bundle", "peak_memory_bytes": "has no measured peak memory"}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits on the cost of a method; `None` is no limit.

    Args:
        max_trainable_parameters: Largest number of trainable parameters.
        max_stored_parameters: Largest number of parameters that a bundle stores.
        max_bundle_bytes: Largest size of a bundle.
        max_steps: Largest number of optimizer steps.
        max_tokens: Largest number of tokens to train on.
        max_peak_memory_bytes: Largest peak memory of training.
    """

    max_trainable_parameters: int | None = None
    max_stored_parameters: int | None = None
    max_bundle_bytes: int | None = None
    max_steps: int | None = None
    max_tokens: int | None = None
    max_peak_memory_bytes: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether nothing is limited."""
        return all(getattr(self, limit.name) is None for limit in fields(self))

    def excesses(self, row: RowRecord) -> list[str]:
        """What a row exceeds, as predicates of sentences; an unknown cost may exceed its limit. Empty if it fits."""
        found = []
        for limit, (cost, predicate) in _COSTS.items():
            most, spent = getattr(self, limit), getattr(row.cost, cost)
            if most is None or (spent is not None and spent <= most):
                continue
            fact = _UNKNOWN[cost] if spent is None else predicate.format(spent)
            found.append(f"{fact} (`{limit}` is {most:,})")
        return found

    def fits(self, row: RowRecord) -> bool:
        """Whether a row is within the budget."""
        return not self.excesses(row)
