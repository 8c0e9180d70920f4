"""The W&B mode of a run, and whether W&B's server is reachable.

In: the setting `tracking.wandb`, the environment variable `WANDB_MODE`, which takes precedence, and the server's URL.
Out: a mode. No run waits long for an unreachable server; W&B's own client waits for half a minute.
"""

import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Literal

WandbMode = Literal["auto", "online", "offline", "none"]

WANDB_MODES: Mapping[str, WandbMode] = {
    "online": "online",
    "offline": "offline",
    "disabled": "none",
    "run": "online",
    "dryrun": "offline",
    "shared": "online",
}
"""The values of `WANDB_MODE` that W&B accepts, and the modes here."""

_TRUE = ("1", "true", "yes", "on")

REACHABLE_TIMEOUT_S = 1.0
"""Seconds that a server may take to respond."""


def resolve_mode(setting: WandbMode, environment: Mapping[str, str]) -> WandbMode:
    """Return the mode: `WANDB_MODE` overrides every setting but `none`, and `WANDB_DISABLED=true` all of them."""
    if setting == "none" or environment.get("WANDB_DISABLED", "").strip().lower() in _TRUE:
        return "none"
    return WANDB_MODES.get(environment.get("WANDB_MODE", ""), setting)


def is_reachable(url: str, *, within_s: float = REACHABLE_TIMEOUT_S) -> bool:
    """Whether a server responds in time with a status below 500.

    The limit includes name resolution, which has no timeout of its own and therefore runs in a thread.
    """
    statuses: list[int] = []
    thread = threading.Thread(target=_request, args=(url, within_s, statuses), daemon=True)
    thread.start()
    thread.join(within_s)
    return bool(statuses) and statuses[0] < 500


def _request(url: str, timeout_s: float, statuses: list[int]) -> None:
    request = urllib.request.Request(f"{url.rstrip('/')}/graphql", b"{}", {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            statuses.append(response.status)
    except urllib.error.HTTPError as error:
        with error:
            statuses.append(error.code)
    except Exception:  # any other error means that the server is not reachable
        return
