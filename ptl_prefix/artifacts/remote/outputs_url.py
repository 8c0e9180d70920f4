"""Checks an `outputs_url` before anything is loaded.

In: the setting. Out: one sentence for what is wrong with it: its form, a library that is missing, credentials that
cannot be read or write nothing, a store that does not answer.
"""

from functools import cache

from ptl_prefix.artifacts.remote.address import RemoteAddress
from ptl_prefix.artifacts.remote.object_store import ObjectStore
from ptl_prefix.errors import ObjectStoreError, StorageError

MARKER = ".ptl_prefix"
"""The object that is written at an `outputs_url` to find out whether it can be."""

_CONTENT = b"Runs of ptl-prefix are mirrored here. This object is written at the start of each of them.\n"
_ATTEMPTS = 2


@cache
def outputs_url_problem(url: str | None) -> str | None:
    """Why runs cannot be mirrored at an address, asked of the store once in each process; `None` if they can."""
    if url is None:
        return None
    try:
        address = RemoteAddress.parse(url)
        ObjectStore(address.scheme, attempts=_ATTEMPTS).write(address / MARKER, _CONTENT)
    except (ObjectStoreError, StorageError) as error:
        return f"`outputs_url`: {error}"
    return None
