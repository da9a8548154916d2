"""Numbers as people write them: 12.5 kB, 21 µs, 99.3 %, ×6.7."""

from __future__ import annotations

import math


def digits(value: float, count: int = 3) -> str:
    """A number with so many significant digits, never in powers of ten between 0.001 and a million."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = count - 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, places)
    if abs(rounded) >= 1e6 or abs(rounded) < 1e-3:
        return f"{rounded:.{count - 1}e}"
    # Rounding up may have won a digit: 99.96 is 100, not 100.0.
    places = count - 1 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:.{max(places, 0)}f}"


def _scaled(value: float, units: tuple[tuple[float, str], ...], more: int) -> str:
    for factor, unit in units:
        # 999.6 kB is 1.00 MB once it is rounded to three digits.
        if abs(value) >= 0.9995 * factor:
            return f"{digits(value / factor, 3 + more)} {unit}"
    factor, unit = units[-1]
    return f"{digits(value / factor, 3 + more)} {unit}"


def in_bytes(value: float, more: int = 0) -> str:
    """A number of bytes, in SI units, with so many more digits than usual."""
    if abs(value) < 999.5:
        return f"{value:.{more}f} B"
    return _scaled(value, ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")), more)


def in_seconds(value: float, more: int = 0) -> str:
    """A time in seconds, from nanoseconds to hours, with so many more digits than usual."""
    if value == 0:
        return "0 s"
    if abs(value) >= 119.5 and more:
        return f"{value:.{more - 1}f} s"
    if abs(value) >= 119.5:
        minutes = round(value / 60)
        return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
    return _scaled(value, ((1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")), more)


def in_percent(value: float, more: int = 0) -> str:
    """A ratio between 0 and 1, to a tenth of a percent, with so many more digits."""
    return f"{100 * value:.{1 + more}f} %"


def times(value: float) -> str:
    """How many times better: ×6.7."""
    return f"×{digits(value, 2) if abs(value) < 99.5 else f'{value:.0f}'}"


def points(lost: float) -> str:
    """A difference of ratios, in points: what was lost is negative here, as people read it."""
    return _signed(f"{-100 * lost:+.1f}")


def change(lost: float, unit: str) -> str:
    """What was won or lost of a metric of which more is better: points of a ratio, else in its unit."""
    if unit == "ratio":
        return points(lost)
    text = quantity(abs(lost), unit)
    return _signed(f"{'-' if lost > 0 else '+'}{text}") if lost else text


def _signed(text: str) -> str:
    # Nothing won and nothing lost has no sign.
    return text.replace("-", "−") if text.strip("+-0.") else text.lstrip("+-")


def compared(times_better: float | None, lost: float | None, unit: str) -> str:
    """How a figure compares with the baseline's: `×6.7`, or `−0.4` points; nothing where there is no comparison."""
    if times_better is not None:
        return times(times_better)
    return "" if lost is None else change(lost, unit)


def quantity(value: float, unit: str, more: int = 0) -> str:
    """A measurement in its unit ("s", "B", "ratio", "count" or ""), with so many more digits than usual."""
    if unit == "s":
        return in_seconds(value, more)
    if unit == "B":
        return in_bytes(value, more)
    if unit == "ratio":
        return in_percent(value, more)
    if unit == "count":
        return f"{value:,.{more}f}"
    return digits(value, 4 + more)


def difference(value: float, unit: str, more: int = 0) -> str:
    """A difference of two measurements without its sign; of ratios in points."""
    if unit == "ratio":
        return f"{abs(100 * value):.{1 + more}f} points"
    # Where digits are counted from the first one that is not zero, a small difference shows without more.
    counted = unit == "count" or (unit == "B" and abs(value) < 1)
    return quantity(abs(value), unit, more if counted else 0)


def apart(one: float, other: float, unit: str) -> tuple[str, str, str]:
    """Two measurements and their difference, with as many digits as it takes to tell them from each other."""
    for more in range(16):
        texts = quantity(one, unit, more), quantity(other, unit, more), difference(one - other, unit, more)
        if one == other or (texts[0] != texts[1] and texts[2] != difference(0.0, unit, more)):
            break
    return texts


def counted(count: float, noun: str) -> str:
    """`1 trial`, `2,000 trials`."""
    return f"{count:,.0f} {noun}{'' if count == 1 else 's'}"
