"""An answer that refuses: a status, and the body that OpenAI's clients turn into their exceptions.

In: what must hold, what was found, what to do. Out: `ApiError`, raised anywhere behind the HTTP side and written once.
"""

from collections.abc import Mapping
from typing import Any

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A refused or failed request.

    Args:
        status: HTTP status.
        message: What must hold, what was found, what to do.
        code: Word for programs, such as `model_not_found`.
        param: Name of the field that is wrong; `None` if it is none of them.
        retry_after_s: Seconds after which it is worth trying again; `None` if it never is.
        details: More keys of the error, such as the scores of a router.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after_s: int | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self.details = dict(details or {})

    @property
    def body(self) -> dict[str, Any]:
        """The body of the answer."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code, **self.details}
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        """The headers that belong to the status."""
        headers = {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}
        return {**headers, "www-authenticate": "Bearer"} if self.status == 401 else headers


def invalid(message: str, *, param: str | None = None, code: str = "invalid_value", **details: Any) -> ApiError:
    """A request that can never be answered as it is."""
    return ApiError(400, message, code=code, param=param, details=details)
