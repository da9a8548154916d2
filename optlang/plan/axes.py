"""How studies and data factories name an axis of an input: `NAME:AXIS`, with a size `= 32` or sizes `= 8..512`."""

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


def wrong(setting: str, item: AxisSizes) -> tuple[str, str] | None:
    """Why `setting` ("dynamic" or "shape") cannot have the axis, and what to write; None where it can."""
    if item.axis == 0:
        return "axis 0 is the samples, whose number is open already", "`batch` says how many of them one call takes"
    if item.low is None or item.high is None:
        return None
    if item.low > item.high:
        return "no size lies between these", f'write "{item.place} = {item.high}..{item.low}"'
    if item.low < 1:
        return "the least size is 1", f'write "{item.place} = 1..{max(item.high, 1)}"'
    if setting == "shape" and item.low < item.high:
        return "one size is timed", f'write "{item.place} = {item.low}"'
    if setting == "dynamic" and item.low == item.high:
        return "one size is not open", f'leave "{item.place}" out, or write "{item.place} = 1..{item.high}"'
    return None
