"""Whether W&B is told, and over the network or not: WANDB_MODE decides, else the setting, else what is at hand.

In: the setting, the environment, a server's address. Out: a mode. No run waits long for a server that is not there:
W&B's own client would, for half a minute.
"""

import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Literal

Choice = Literal["auto", "online", "offline", "none"]

WANDB_MODES: Mapping[str, Choice] = {
    "online": "online",
    "offline": "offline",
    "disabled": "none",
    "run": "online",
    "dryrun": "offline",
    "shared": "online",
}
"""What the environment's WANDB_MODE may be, as W&B has it, and what that is here."""

PATIENCE_S = 1.0
"""How long a server may take to show that it is there."""


def resolve_mode(setting: Choice, environment: Mapping[str, str]) -> Choice:
    """The setting, unless WANDB_MODE says otherwise. A run that is to tell W&B nothing does so whatever it says."""
    if setting == "none":
        return "none"
    return WANDB_MODES.get(environment.get("WANDB_MODE", ""), setting)


def is_reachable(url: str, *, within_s: float = PATIENCE_S) -> bool:
    """Whether a server is there and well: any answer in time, but for one that says that the server is broken.

    The time holds for all of it. Looking up a name has no time-out of its own, so it is left to a thread.
    """
    statuses: list[int] = []
    thread = threading.Thread(target=_ask, args=(url, within_s, statuses), daemon=True)
    thread.start()
    thread.join(within_s)
    return bool(statuses) and statuses[0] < 500


def _ask(url: str, timeout_s: float, statuses: list[int]) -> None:
    question = urllib.request.Request(f"{url.rstrip('/')}/graphql", b"{}", {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(question, timeout=timeout_s) as response:
            statuses.append(response.status)
    except urllib.error.HTTPError as error:
        with error:
            statuses.append(error.code)
    except Exception:  # whatever it is, nobody answered
        return
