"""The Hugging Face hub. No other file imports its library.

In: an address, and the names of files to fetch, or files to upload. Out: files in the library's cache, or a commit;
else a `HubError` of one sentence. The library's environment variables apply: HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE and
HF_HOME. What a server sends is not trusted: only files that are asked for are fetched, and no more bytes than allowed.
"""

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Its names are imported when they are used: the package alone takes no time.
import huggingface_hub
from huggingface_hub import constants

from ptl_prefix.artifacts.fingerprint import package_version
from ptl_prefix.artifacts.hub_address import HubAddress
from ptl_prefix.errors import HubError, StorageError

_WAIT_S = 10.0
"""Seconds to wait for the first answer of a server, and for each piece of a download."""
_UPLOAD_WAIT_S = 120.0
"""Seconds to wait for each answer during an upload: a server hashes large files before it answers."""


@dataclass(frozen=True)
class Commit:
    """A commit on the hub.

    Args:
        repo_url: Page of the repository.
        commit: Hash of the commit.
    """

    repo_url: str
    commit: str


def model_cache_folder() -> Path:
    """The folder where the library keeps what was fetched."""
    return Path(constants.HF_HUB_CACHE)


def fetch_pinned(address: HubAddress, filename: str, *, max_bytes: int) -> HubAddress:
    """The address with the commit that its revision names now; offline, the one that it named when it was fetched.

    Args:
        address: Address with any revision.
        filename: File that the repository must have; it is fetched, so that the cache knows the revision.
        max_bytes: Largest size of the file.

    Raises:
        HubError: There is no such repository, revision or file, or the hub cannot be asked.
    """
    if address.is_pinned:
        return address
    if not constants.HF_HUB_OFFLINE:
        with _hub_errors(f"{address} must be on the hub"):
            # Not retried, as the library's downloads are: nobody waits for a network that is not there.
            url = huggingface_hub.hf_hub_url(address.repo, filename, revision=address.revision)
            _api().get_hf_file_metadata(url=url, timeout=_WAIT_S)
    return address.at(fetch_file(address, filename, max_bytes=max_bytes).parent.name)


def fetch_file(address: HubAddress, filename: str, *, max_bytes: int) -> Path:
    """One file, from the library's cache if it is there.

    Args:
        address: Address.
        filename: Name of the file.
        max_bytes: Largest size; a larger file is not fetched, whatever size the server states.

    Raises:
        HubError: The file is missing or too large, or the hub cannot be asked.
    """
    wanted: dict[str, Any] = {
        "repo_id": address.repo,
        "filename": filename,
        "revision": address.revision,
        "etag_timeout": _WAIT_S,
        "library_name": "ptl_prefix",
        "library_version": package_version(),
    }
    with _hub_errors(f"{filename} must be at {address}"):
        size = huggingface_hub.hf_hub_download(**wanted, dry_run=True).file_size
        if size > max_bytes:
            raise _too_large(filename, max_bytes)
        return Path(huggingface_hub.hf_hub_download(**wanted, tqdm_class=_bar_that_stops_at(max_bytes, filename)))


def upload_files(address: HubAddress, files: Mapping[str, Path | bytes], *, private: bool, message: str) -> Commit:
    """Upload files in one commit; the repository and its branch are created if they are missing.

    Args:
        address: Address with a branch.
        files: Path or content of each file, by its name in the repository.
        private: Whether the repository must be private.
        message: Message of the commit.

    Raises:
        HubError: The hub cannot be reached or refuses, or the repository is public and must not be.
    """
    law = f"{address.repo} must be uploaded to the hub"
    if constants.HF_HUB_OFFLINE:
        raise HubError(f"{law}, but HF_HUB_OFFLINE is set; unset it.")
    if huggingface_hub.get_token() is None:
        raise HubError(f"{law}, but there is no token; log in with `hf auth login`, or set HF_TOKEN.")
    with _hub_errors(law), _bounded_waiting(), _bars_on_a_terminal_only():
        api = _api()
        url = api.create_repo(address.repo, private=private, exist_ok=True)
        if private and not api.repo_info(address.repo).private:
            raise HubError(
                f"{address.repo} must be private with private=true, but exists and is public; make it private on its "
                "page, or choose another name."
            )
        if address.revision != constants.DEFAULT_REVISION:
            api.create_branch(address.repo, branch=address.revision, exist_ok=True)
        commit = api.create_commit(
            address.repo,
            [huggingface_hub.CommitOperationAdd(name, content) for name, content in files.items()],
            commit_message=message,
            revision=address.revision,
        )
        return Commit(str(url), str(commit.oid))


def _api() -> "huggingface_hub.HfApi":
    return huggingface_hub.HfApi(library_name="ptl_prefix", library_version=package_version())


@contextlib.contextmanager
def _bounded_waiting() -> Iterator[None]:
    """Bound the library's requests, which wait for ever by default."""
    client = huggingface_hub.get_session()
    before, client.timeout = client.timeout, _UPLOAD_WAIT_S
    try:
        yield
    finally:
        client.timeout = before


@contextlib.contextmanager
def _bars_on_a_terminal_only() -> Iterator[None]:
    """Without a terminal, the library would write the bars of an upload into a log."""
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _bar_that_stops_at(max_bytes: int, filename: str) -> type[Any]:
    """A progress bar that ends a download of more bytes than allowed: the library asks no one else on the way."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    class Bar(tqdm):
        received = 0

        def update(self, n: float | None = 1) -> bool | None:
            self.received += int(n or 0)
            if self.received > max_bytes:
                raise _too_large(filename, max_bytes)
            shown: bool | None = super().update(n)
            return shown

    return Bar


def _too_large(filename: str, max_bytes: int) -> HubError:
    return HubError(
        f"{filename} must have at most {max_bytes:,} bytes, but the hub sends more; do not use this repository."
    )


@contextlib.contextmanager
def _hub_errors(law: str) -> Iterator[None]:
    """Turn the errors of the library and its HTTP client into a `HubError` that begins with `law`."""
    from huggingface_hub import errors

    try:
        yield
    except HubError:
        raise
    # The library wraps some errors as RuntimeError or ValueError, and hands on those of its client.
    except (errors.HTTPError, OSError, LookupError, RuntimeError, ValueError) as error:  # type: ignore[attr-defined]
        if isinstance(error, OSError) and StorageError.describes(error):
            raise StorageError(error.filename or model_cache_folder(), error) from error
        cause = error.__cause__ if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception) else error
        raise HubError(f"{law}, but {_fact_and_advice(cause)}") from error


def _fact_and_advice(error: Exception) -> str:
    """What an error of the library means, and what to do."""
    from huggingface_hub import errors

    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if isinstance(error, errors.GatedRepoError):
        return "its terms are not accepted; accept them on its page, and log in with `hf auth login`."
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no repository of this name is open to you; correct the name, or log in with `hf auth login`."
    if isinstance(error, errors.RevisionNotFoundError):
        return "it has no such revision; name a branch, a tag or a commit of it."
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return "the repository has no such file; name one that `ptl-prefix push` or PEFT wrote."
    if status in (401, 403):
        return f"the hub refuses your token ({status}); log in with `hf auth login`, or set HF_TOKEN to another one."
    if status is not None:
        return f"{constants.ENDPOINT} answers {status}; try again later."
    if constants.HF_HUB_OFFLINE and isinstance(error, FileNotFoundError | ConnectionError):
        return "HF_HUB_OFFLINE is set and it was not fetched before; unset HF_HUB_OFFLINE to fetch it."
    if isinstance(error, errors.HTTPError | FileNotFoundError | ConnectionError):  # type: ignore[attr-defined]
        return (
            f"{constants.ENDPOINT} cannot be reached ({type(error).__name__}); check the network, or use what was "
            "fetched before with HF_HUB_OFFLINE=1."
        )
    return f"{' '.join(str(error).split()):.300}; try again later."


@dataclass(frozen=True, kw_only=True)
class CardResult:
    """A metric as the header of a model card states it.

    Args:
        dataset: Name of the data on the hub, or of the task.
        dataset_name: Name of the task.
        split: Split that was measured.
        metric: Name of the metric.
        metric_name: The same, with its interval and number of examples.
        value: Value of the metric.
    """

    dataset: str
    dataset_name: str
    split: str
    metric: str
    metric_name: str
    value: float


def card_header(fields: Mapping[str, Any], name: str, results: Sequence[CardResult]) -> str:
    """The YAML at the start of a model card, in the form that the hub reads.

    Args:
        fields: Fields of the header besides the metrics.
        name: Name of the model, beside its metrics.
        results: Metrics.
    """
    evaluated = [
        huggingface_hub.EvalResult(
            task_type="text-generation",
            dataset_type=one.dataset,
            dataset_name=one.dataset_name,
            dataset_split=one.split,
            metric_type=one.metric,
            metric_name=one.metric_name,
            metric_value=one.value,
        )
        for one in results
    ]
    data = huggingface_hub.ModelCardData(**fields, model_name=name, eval_results=evaluated or None)
    return f"---\n{data.to_yaml()}\n---\n"
