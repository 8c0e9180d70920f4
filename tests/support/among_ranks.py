"""Runs functions in several ranks: forked processes that communicate over gloo and need not import anything.

In: a function of `rank_bodies`, and arguments. Out: what it returned in each rank. The processes are forked from one
that has imported everything, and nothing else: it has no threads.
"""

import contextlib
import multiprocessing
import os
import pickle
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist

from ptl_prefix.data.rank_share import RankShare
from ptl_prefix.training.rank_environment import RankEnvironment
from ptl_prefix.training.ranks import process_group

_LONGEST_S = 120.0

_processes = multiprocessing.get_context("forkserver")
# LoRA, as it imports PEFT, which takes longer than a test.
_processes.set_forkserver_preload(["ptl_prefix.commands.train.command", "ptl_prefix.methods.lora"])


class RankFailedError(Exception):
    """A rank raised an error or was killed."""


def among_ranks(number: int, body: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call `body(ranks, *arguments)` in as many ranks.

    Raises:
        RankFailedError: One of them did not return.
    """
    ends = ends_of_ranks(number, body, *arguments)
    if failed := [str(end) for end in ends if isinstance(end, RankFailedError)]:
        raise RankFailedError("\n".join(failed))
    return ends


def ends_of_ranks(number: int, body: Callable[..., Any], *arguments: Any) -> list[Any]:
    """The result of each rank, or the `RankFailedError` that it ended with."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    pipes = [_processes.Pipe(duplex=False) for _ in range(number)]
    ranks = [
        _processes.Process(target=_rank, args=(RankShare(rank, number), store.port, pipes[rank][1], body, arguments))
        for rank in range(number)
    ]
    for rank, (_, sender) in zip(ranks, pipes, strict=True):
        rank.start()
        sender.close()
    ends = [_received(receiver, rank) for rank, (receiver, _) in zip(ranks, pipes, strict=True)]
    for rank in ranks:
        rank.join(_LONGEST_S)
        rank.kill()
        rank.join()
        rank.close()
    return ends


def _received(receiver: Connection, rank: Any) -> Any:
    with receiver, contextlib.suppress(EOFError):
        if receiver.poll(_LONGEST_S):
            return pickle.loads(receiver.recv_bytes())
    return RankFailedError(f"{rank.name} said nothing")


def _rank(
    share: RankShare, port: int, sender: Connection, body: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    os.environ.update(place, GLOO_SOCKET_IFNAME="lo")
    try:
        with process_group(RankEnvironment(share=share, local_rank=share.rank), torch.device("cpu")) as ranks:
            end = body(ranks, *arguments)
    except BaseException as error:
        end = RankFailedError(f"rank {share.rank}: {type(error).__name__}: {error}\n{traceback.format_exc()}")
    sender.send_bytes(pickle.dumps(end))  # `send` would leave tensors in the memory of a process that ends
