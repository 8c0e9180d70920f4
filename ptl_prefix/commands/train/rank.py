"""One rank of a run on several devices: `python -m ptl_prefix.commands.train.rank <run folder>`.

In: a run folder with its config, and the environment that `rank_processes` has made; nothing of Hydra. Out: this rank
has taken part to the end, or says why not. The exit code is 0, 1, 3 if another rank is gone, or 128 and the signal's
number after a stop.
"""

import os
import signal
import sys
import threading
import traceback
from types import FrameType

from ptl_prefix.backbones.library_logging import silence_library_messages


def main() -> None:
    """Take part in the run whose folder is the only argument."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    threading.Thread(target=_follow_the_starter, name="starter", daemon=True).start()
    silence_library_messages()
    # Imported here: a signal must be heard while this takes seconds.
    from ptl_prefix.commands.train.command import take_part_in_run
    from ptl_prefix.commands.train.rank_processes import LEFT_ALONE
    from ptl_prefix.errors import NonFiniteLossError, PtlPrefixError, RankError
    from ptl_prefix.training.rank_environment import is_nonzero_rank

    try:
        take_part_in_run(sys.argv[1])
    except RankError:
        sys.exit(LEFT_ALONE)  # who is gone has said why, or the process that started all does
    except NonFiniteLossError as error:
        sys.exit(1 if is_nonzero_rank() else str(error))  # it is a sum, and so not finite in any rank
    except PtlPrefixError as error:
        sys.exit(f"rank {os.environ['RANK']}: {error}")
    except Exception:
        print(f"rank {os.environ['RANK']}:", traceback.format_exc(), sep="\n", file=sys.stderr, flush=True)
        sys.exit(1)


def _leave(number: int, frame: FrameType | None) -> None:
    """While nothing is trained there is nothing to save; training listens by itself."""
    sys.exit(128 + number)


def _follow_the_starter() -> None:
    """Stop as by SIGTERM when the process that started this one is gone: it holds the other end of standard input."""
    os.read(0, 1)  # not by `sys.stdin`, whose lock would be held when this process ends
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
