"""The settings at the root of `conf/serve.yaml`, with types and ranges."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen

from ptl_prefix.artifacts.decoding import MaxNewTokens
from ptl_prefix.artifacts.remote.address import RemoteAddress, is_remote_address
from ptl_prefix.errors import ObjectStoreError

Seconds = Annotated[float, Gt(0), Le(86400 * 365)]


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """The keys at the root of `conf/serve.yaml`.

    Args:
        bundles: Folder whose subfolders are bundles or run folders, or address at or above mirrored runs in an object
            store; their names are the names of the tasks.
        engine: What generates: `ptl_prefix`, this process; or `vllm`, the server at `upstream`.
        upstream: URL of a vLLM server that runs `TrainedPrefixConnector`; `None` if `engine` is `ptl_prefix`.
        host: Address to listen on. One that other machines reach needs API keys.
        port: Port to listen on; 0 takes a free one.
        api_keys_file: File of API keys; `None` takes those of the environment, or makes one and prints it.
        dtype: Dtype of the backbone's weights and computations; `None` is that of the bundles.
        device: Device of the backbone; `auto` takes a GPU if there is one.
        max_rows: Largest number of texts that are generated at once.
        text_megabytes: Memory for the keys and values of texts, in units of 10^6 bytes.
        prefix_megabytes: Memory for prefixes, in units of 10^6 bytes.
        chunk_tokens: Largest number of prompt tokens that are read between two steps of the running texts; four times
            as many when none runs.
        router: What chooses the task of `model: "auto"`: hashed n-grams, or the backbone's hidden states.
        wrong_refusals: Rate at which texts of a task may be refused by `auto`.
        base_max_new_tokens: Most tokens that the backbone generates without a bundle, if a request does not say.
        max_requests: Largest number of texts that run or wait.
        max_requests_per_client: The same, of one API key.
        max_body_bytes: Largest body of a request.
        request_timeout_s: Seconds after which a request is given up.
        rescan_every_s: Seconds between two looks at the folder of bundles; `None` never looks by itself.
        drain_timeout_s: Seconds for which accepted requests may go on after SIGTERM or Ctrl-C.
        unhealthy_after_s: Seconds without a round of the engine after which `/health` fails.
        exit_after_s: Seconds of failing `/health` after which the process ends.
    """

    bundles: str
    engine: Literal["ptl_prefix", "vllm"]
    upstream: str | None
    host: Annotated[str, MinLen(1)]
    port: Annotated[int, Ge(0), Le(65535)]
    api_keys_file: str | None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None
    device: Literal["auto", "cpu", "cuda", "mps"]
    max_rows: Annotated[int, Ge(1), Le(4096)]
    text_megabytes: Annotated[int, Ge(1), Le(10**9)]
    prefix_megabytes: Annotated[int, Ge(1), Le(10**9)]
    chunk_tokens: Annotated[int, Ge(1), Le(2**20)]
    router: Literal["ngrams", "hidden_states", "none"]
    wrong_refusals: Annotated[float, Gt(0), Lt(1)]
    base_max_new_tokens: MaxNewTokens
    max_requests: Annotated[int, Ge(1), Le(10**6)]
    max_requests_per_client: Annotated[int, Ge(1), Le(10**6)]
    max_body_bytes: Annotated[int, Ge(1000), Le(10**8)]
    request_timeout_s: Seconds
    rescan_every_s: Annotated[float, Ge(0.1), Le(86400)] | None
    drain_timeout_s: Annotated[float, Ge(0), Le(86400)]
    unhealthy_after_s: Annotated[float, Ge(1), Le(86400)]
    exit_after_s: Annotated[float, Ge(1), Le(86400)]

    def problems(self) -> list[str]:
        """A folder or file that does not exist."""
        problems = []
        if is_remote_address(self.bundles):
            problems += _address_problems(self.bundles)
        elif not Path(self.bundles).is_dir():
            problems.append(f"`bundles` must be a folder, but there is none at '{self.bundles}'.")
        if self.api_keys_file is not None and not Path(self.api_keys_file).is_file():
            problems.append(f"`api_keys_file` must be a file, but there is none at '{self.api_keys_file}'.")
        if (self.engine == "vllm") != (self.upstream is not None):
            problems.append(
                f"`upstream` must be given with engine=vllm and with no other, but engine={self.engine} and upstream "
                f"{'is' if self.upstream is None else 'is not'} null."
            )
        if self.engine == "vllm" and self.router == "hidden_states":
            problems.append(
                "`router` must be ngrams or none with engine=vllm, whose hidden states cannot be read, but is "
                "hidden_states."
            )
        return problems


def _address_problems(address: str) -> list[str]:
    try:
        RemoteAddress.parse(address)
    except ObjectStoreError as error:
        return [f"`bundles`: {error}"]
    return []
