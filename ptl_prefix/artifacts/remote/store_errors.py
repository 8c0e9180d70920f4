"""What an error of fsspec and its libraries means, and what to do.

In: an exception of s3fs, gcsfs or the disk, with those that caused it. Out: whether it may pass, whether a condition of
a write was not met, and one sentence. The libraries wrap each other's errors: the first one says the most.
"""

import errno
from collections.abc import Iterator

from ptl_prefix.errors import ObjectStoreError, StorageError

_REFUSED = ("PreconditionFailed", "ConditionalRequestConflict", "412")
_LOGIN = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for Google Cloud, GOOGLE_APPLICATION_CREDENTIALS"
)
_NO_LOGIN = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "ProfileNotFound",
    "DefaultCredentialsError",
    "RefreshError",
)
_REFUSALS = {"403", "401", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "Forbidden"}
_NOT_THERE = {"404", "NoSuchBucket", "NoSuchKey"}


def was_refused(error: BaseException) -> bool:
    """Whether a store did not write an object because it is another version than the condition names."""
    return any(isinstance(one, FileExistsError) or _code(one) in _REFUSED for one in _causes(error))


def may_pass(error: BaseException) -> bool:
    """Whether an error may be gone at the next attempt: a server's error, a lost connection, a full disk is none."""
    causes = list(_causes(error))
    if any(type(one).__name__ in _NO_LOGIN or _code(one) in _REFUSALS | _NOT_THERE for one in causes):
        return False
    if any(isinstance(one, PermissionError | StorageError) for one in causes):
        return False
    return not (isinstance(error, OSError) and StorageError.describes(error) and error.errno != errno.EIO)


def as_store_error(law: str, error: BaseException) -> ObjectStoreError:
    """The error as one sentence that begins with a law."""
    causes = list(_causes(error))
    names, codes = {type(one).__name__ for one in causes}, {_code(one) for one in causes}
    if names & set(_NO_LOGIN):
        return ObjectStoreError(f"{law}, but no credentials can be read; {_LOGIN}.")
    if codes & _REFUSALS or any(isinstance(one, PermissionError) for one in causes):
        return ObjectStoreError(f"{law}, but the store refuses your credentials or permissions; {_LOGIN}.")
    if codes & _NOT_THERE or any(isinstance(one, FileNotFoundError) for one in causes):
        return ObjectStoreError(f"{law}, but its bucket or folder does not exist; create it, or correct the address.")
    fact = " ".join(str(causes[-1]).split()) or type(causes[-1]).__name__
    return ObjectStoreError(f"{law}, but the store does not answer as it should ({fact:.200}); try again later.")


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def _code(error: BaseException) -> str:
    """The code of an answer of S3 or Google Cloud Storage; empty for another error."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):
        return str(answer.get("Error", {}).get("Code", ""))
    return str(getattr(error, "code", ""))
