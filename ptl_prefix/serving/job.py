"""A request as the scheduler sees it, and what the scheduler decides.

In: nothing. Out: dataclasses of numbers and names.
"""

from dataclasses import dataclass, field

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
        num_prompt: Tokens of its prompt that are read, at least one.
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
    num_prompt: int
    arrived_s: float
    deadline_s: float | None = None
    num_generated: int = 0
    num_unread: int = field(init=False)
    """Tokens to read before the next one is generated: its prompt, then each time the token that was generated; after a
    preemption its prompt and all generated tokens."""

    def __post_init__(self) -> None:
        self.num_unread = self.num_prompt

    @property
    def can_step(self) -> bool:
        """Whether one token is all that it has to read."""
        return self.num_unread == 1

    def note_read(self, count: int) -> int:
        """Note that tokens have been read; return the number of generated ones: one after the last that was unread."""
        self.num_unread -= count
        if self.num_unread:
            return 0
        self.num_generated += 1
        self.num_unread = 1
        return 1

    def note_preempted(self) -> None:
        """Note that its row was taken."""
        self.num_unread = self.num_prompt + self.num_generated


@dataclass(frozen=True)
class Decision:
    """What the engine does in one round, in this order.

    Args:
        given_up: Requests that end, with the reason.
        preempted: Requests whose row is taken; they wait again.
        admitted: Requests that get a row.
        group: The group that reads and steps.
        read: Requests whose next prompt tokens are read, with their number; who is read to the end generates a token.
        step: Requests that read the token generated last, and generate the next one.
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
