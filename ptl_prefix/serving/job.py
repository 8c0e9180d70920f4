"""A request as the scheduler sees it, and what the scheduler decides.

In: nothing. Out: dataclasses of numbers and names.
"""

from dataclasses import dataclass

from ptl_prefix.serving.request import FinishReason


@dataclass(eq=False)
class Job:
    """A request as the scheduler sees it.

    Args:
        request_id: The request.
        client: Whom it counts for.
        group: Rows of different groups cannot share a forward pass; `None` is the group of prefixes and the bare base.
        version: The bundle's version; `None` for the bare base.
        prefix_bytes: Memory of the bundle.
        num_prefix: Prefix columns of its row.
        num_columns: Text columns that its row may need.
        num_prompt_to_read: Tokens of its prompt to read before its first step.
        arrived_s: Time of its arrival.
        deadline_s: Time at which it is given up; `None` for never.
    """

    request_id: str
    client: str
    group: str | None
    version: str | None
    prefix_bytes: int
    num_prefix: int
    num_columns: int
    num_prompt_to_read: int
    arrived_s: float
    deadline_s: float | None = None
    num_read: int = 0
    num_steps: int = 0
    num_steps_to_read: int = 0

    @property
    def num_to_read(self) -> int:
        """Tokens to read before its next step: of its prompt and, after a preemption, those that it has generated."""
        return self.num_prompt_to_read + self.num_steps_to_read

    @property
    def is_read(self) -> bool:
        """Whether it can step."""
        return self.num_read >= self.num_to_read


@dataclass(frozen=True)
class Decision:
    """What the engine does in one round, in this order.

    Args:
        given_up: Requests that end, with the reason.
        preempted: Requests whose row is taken; they wait again.
        admitted: Requests that get a row.
        group: The group that reads and steps.
        read: Requests whose next prompt tokens are read, with their number.
        step: Requests that generate one token.
    """

    given_up: tuple[tuple[str, FinishReason], ...] = ()
    preempted: tuple[str, ...] = ()
    admitted: tuple[str, ...] = ()
    group: str | None = None
    read: tuple[tuple[str, int], ...] = ()
    step: tuple[str, ...] = ()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is to be done until a request arrives."""
        return not (self.given_up or self.preempted or self.admitted or self.read or self.step)
