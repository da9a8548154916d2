"""The signals that ask a process to stop, Ctrl-C, SIGTERM and SIGHUP: who receives them. The scheduler acts on them."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

GRACE = 30.0
"""Seconds that a running trial has to finish after SIGTERM or SIGHUP: what sends them often kills some time later."""

TWICE = 0.2
"""Seconds within which a second SIGTERM or SIGHUP is the first one again: `timeout` sends its signal to the command and
to the command's process group, a closing terminal its own to the shell and to the shell's jobs."""

INTERRUPT = int(signal.SIGINT)
# Windows has no SIGHUP.
HANGUP = int(signal.SIGHUP) if hasattr(signal, "SIGHUP") else None


@contextmanager
def heard_by(hear: Callable[[int], None]) -> Iterator[None]:
    """While the block runs, each of the signals calls `hear` with its number, in the main thread.

    Where SIGTERM or SIGHUP is ignored already (`nohup`), it stays so. In another thread than the main one nothing
    changes: signals are not its business. After SIGHUP nothing is written to the terminal that has gone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # A terminal that is gone no longer says that it is one.
    terminals = [descriptor for descriptor in (0, 1, 2) if os.isatty(descriptor)]

    def heard(number: int, _frame: FrameType | None) -> None:
        if number == HANGUP:
            _let_go(terminals)
        hear(number)

    wanted = [INTERRUPT, int(signal.SIGTERM), *([] if HANGUP is None else [HANGUP])]
    before = {
        number: signal.getsignal(number) for number in wanted
        if number == INTERRUPT or signal.getsignal(number) is not signal.SIG_IGN
    }
    for number in before:
        signal.signal(number, heard)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def raised() -> Iterator[None]:
    """While the block runs, SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does: what is open is closed."""

    def hear(_number: int) -> None:
        raise KeyboardInterrupt

    with heard_by(hear):
        yield


def _let_go(terminals: list[int]) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in terminals:
        with suppress(OSError):
            os.dup2(nowhere, descriptor)
    os.close(nowhere)


def outlive() -> None:
    """Let SIGTERM and SIGHUP pass in this process, whose parent ends it: they are sent to all processes of a run.

    Processes that it starts outlive SIGHUP as well, as under `nohup`; SIGTERM ends them as usual.
    """
    signal.signal(signal.SIGTERM, _pass)
    if HANGUP is not None:
        # Libraries in C do not expect their system calls to be interrupted.
        signal.siginterrupt(signal.SIGTERM, False)
        signal.signal(HANGUP, signal.SIG_IGN)


_LEFT_BEHIND = "ignore::UserWarning:multiprocessing.resource_tracker"


def start_tracker() -> None:
    """Start the process that tracks multiprocessing's semaphores so that SIGHUP does not end it, and without a word.

    It lets SIGINT and SIGTERM pass by itself. Were it ended with its process group, its successor would complain of
    every semaphore that it does not know. It warns of those that a library left in a worker, which is ended and not
    left to clean up: it removes them itself, and nobody has anything to do.
    """
    if HANGUP is None:
        return
    from multiprocessing import resource_tracker

    # What is blocked here is blocked in a process that is started here.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [HANGUP])
    # It is given this process's warning options.
    sys.warnoptions.append(_LEFT_BEHIND)
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove(_LEFT_BEHIND)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _pass(_number: int, _frame: FrameType | None) -> None:
    return None
