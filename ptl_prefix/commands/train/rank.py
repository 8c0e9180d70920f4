"""One rank of a run on several devices: `python -m ptl_prefix.commands.train.rank <run folder> <changes>`.

In: a run folder with its config, what may differ from the run as it began, and the environment that `rank_processes`
sets; Hydra is not used. Out: the rank has trained to the end, or printed its error. The exit code is 0; 1 for an error;
3 if another rank exited; or 128 plus the signal's number after a stop.
"""

import os
import signal
import sys
import threading
import traceback
from types import FrameType

from ptl_prefix.backbones.library_logging import silence_library_messages
from ptl_prefix.commands.standard_streams import escape_unknown_characters


def main() -> None:
    """Train as a rank of the run whose folder is the first argument."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _exit)
    threading.Thread(target=_stop_with_parent, name="parent", daemon=True).start()
    silence_library_messages()
    escape_unknown_characters()
    # Imported here: this takes seconds, in which signals must be handled.
    from ptl_prefix.commands.train.command import train_as_started_rank
    from ptl_prefix.commands.train.rank_processes import LOST_RANK
    from ptl_prefix.errors import NonFiniteLossError, PtlPrefixError, RankError
    from ptl_prefix.training.rank_environment import is_nonzero_rank

    try:
        train_as_started_rank(*sys.argv[1:])
    except RankError:
        sys.exit(LOST_RANK)  # the other rank, or the process that started all, prints the reason
    except NonFiniteLossError as error:
        sys.exit(1 if is_nonzero_rank() else str(error))  # the loss is summed over the ranks, so all of them raise this
    except PtlPrefixError as error:
        sys.exit(f"rank {os.environ['RANK']}: {error}")
    except Exception:
        print(f"rank {os.environ['RANK']}:", traceback.format_exc(), sep="\n", file=sys.stderr, flush=True)
        sys.exit(1)


def _exit(number: int, frame: FrameType | None) -> None:
    """Exit at once: before training there is nothing to save. Training sets its own handlers."""
    sys.exit(128 + number)


def _stop_with_parent() -> None:
    """Stop as by SIGTERM when the parent process exits, which closes the other end of standard input."""
    os.read(0, 1)  # not `sys.stdin.read`, which would hold a lock when this process ends
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
