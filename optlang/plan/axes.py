"""How a study names an axis of an input: `NAME:AXIS`, with a size `= 32` or sizes `= 8..512`."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FORM = re.compile(r"\s*(?P<input>\S+?)\s*:\s*(?P<axis>\d+)\s*(?:=\s*(?P<low>\d+)\s*(?:\.\.\s*(?P<high>\d+)\s*)?)?")


@dataclass(frozen=True, slots=True)
class AxisSizes:
    """An axis of an input (0 is the samples) and its sizes, from `low` to `high`; None where none was said."""

    input: str
    axis: int
    low: int | None = None
    high: int | None = None

    @property
    def place(self) -> str:
        """Input and axis, without sizes."""
        return f"{self.input}:{self.axis}"


def parsed(text: str) -> AxisSizes | None:
    """What the text says, a single size as both ends; None where it has another form."""
    found = _FORM.fullmatch(text)
    if found is None:
        return None
    low, high = (None if found[end] is None else int(found[end]) for end in ("low", "high"))
    return AxisSizes(found["input"], int(found["axis"]), low, high if high is not None else low)
