"""The header by which a balancer before several servers learns a request's task without reading its body.

In: the values of the header, and the `model` of the body. Out: nothing if they agree; otherwise a refusal, as the
balancer would keep sending the task to a server that other tasks belong to.
"""

from collections.abc import Sequence

from ptl_prefix.serving.api_error import invalid

TASK_HEADER = "X-Task"
"""Name of the header. A request may leave it out."""


def check_task_header(values: Sequence[str], model: str) -> None:
    """Check that every value of the header is the model of the body; of `task@version`, the task alone will do.

    Args:
        values: Values of the header, one for each time that it was sent.
        model: The body's `model`.

    Raises:
        ApiError: If a value is another model.
    """
    task = model.partition("@")[0]
    for value in values:
        if value not in (model, task):
            raise invalid(
                f"The header `{TASK_HEADER}` must be the task of the body's `model`, but is {value[:70]!r} while "
                f"`model` is {model[:70]!r}; send {task[:70]!r}, or leave the header out.",
                param="model",
                code="task_mismatch",
            )
