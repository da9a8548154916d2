"""Which exceptions mean that a changed model does not fit its own code or a library, and which that something else is
wrong.

A technique that tries a change and takes it back where the model does not run catches the first and no other: memory
that ran out, an interrupt and a fault of our own are never "not equal".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

from optlang.interfaces import OptlangError, Refusal

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


def message_of(error: BaseException) -> str:
    """The first line of an exception's message that says something, or else its kind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def last_line(error: BaseException) -> str:
    """The last line of an exception's message: libraries in C++ may begin with the places in their own source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextmanager
def refused(
    what: str, help: str | None = None, *, depends: Literal["model", "settings"] = "settings",
    innermost: bool = False,
) -> Iterator[None]:
    """What a library raises in the block as a `Refusal`: `what`, and the first line of its message.

    `innermost`: of the message of the exception that those that reach us were raised from.

    Exporters, converters and compilers have no common base of exceptions: assertions, keys and attributes are among
    them. What optlang itself raises, and memory that ran out, passes through as it is.
    """
    try:
        yield
    except OptlangError:
        raise
    except Exception as error:
        if exhausted(error):
            raise
        reason = message_of(_first(error) if innermost else error)
        raise Refusal(f"{what}: {reason}", help=help, depends=depends) from error


def _first(error: BaseException) -> BaseException:
    return error if error.__cause__ is None else _first(error.__cause__)
