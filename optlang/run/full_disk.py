"""Whether a trial failed because a disk was full: that is not its fault, and nothing after it would go better."""

from __future__ import annotations

import errno
import os

from optlang.interfaces import OutsideError
from optlang.run.job import Failure

_WORDS = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
"""As the system calls it, and all libraries after it."""


def full(failure: Failure) -> str | None:
    """What the system says of the disk, where the failure says so; None where it failed for another reason."""
    return next((words for words in _WORDS if words in failure.reason or words in failure.text), None)


def error(number: int, words: str, failure: Failure) -> OutsideError:
    """The end of a run whose trial has no disk to be carried out on."""
    return OutsideError(
        f"trial {number} could not be carried out: {words}",
        help="free some space, or set a smaller `disk` in search { }, and run again: the run goes on where it stopped "
        f"(the trial ended with: {failure.reason})",
    )
