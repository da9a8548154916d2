"""What all commands share in their answers: exit codes, the error of wrong use, when colour is allowed."""

from __future__ import annotations

import os
import sys
from typing import Any

from optlang.interfaces import OptlangError

WRONG, USAGE, OUTSIDE, INTERRUPTED = 1, 2, 3, 130


def usage(message: str, hint: str) -> OptlangError:
    """The error of a command that was used wrongly (exit code 2), with the way out."""
    error = OptlangError(message, help=hint)
    error.exit_code = USAGE
    return error


def colored(stream: Any) -> bool:
    """Whether a stream is a terminal that may be given colours."""
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def width() -> int | None:
    """The terminal's width; None where the output goes to a file or a pipe, which have none."""
    return os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else None


def table_width(wide: bool = False) -> int | None:
    """How wide a table of results may be: as the terminal, 80 columns where there is none; None with `--wide`."""
    return None if wide else width() or 80
