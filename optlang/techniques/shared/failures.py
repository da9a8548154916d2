"""Which exceptions mean that a changed model does not fit its own code, and which mean that something else is wrong.

A technique that tries a change and takes it back where the model does not run catches the first and no other: memory
that ran out, an interrupt and a fault of our own are never "not equal".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")

FAILURES = (
    IndexError, ValueError, KeyError, TypeError, AttributeError, AssertionError, RuntimeError, ZeroDivisionError,
)
"""What a forward raises that counts on other layers or shapes; torch raises RuntimeError for most."""


def exhausted(error: BaseException) -> bool:
    """Whether memory ran out. torch raises a plain RuntimeError for that on a processor."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "can't allocate memory" in text or "out of memory" in text


def attempt(run: Callable[[], Answer]) -> Answer | Exception:
    """What `run` returns, or the exception that means that the model does not fit its code; any other is raised."""
    try:
        return run()
    except FAILURES as error:
        if exhausted(error):
            raise
        return error


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, and of which kind it is."""
    text = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
