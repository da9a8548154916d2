"""Units, dimensions and exact decimals: what a quantity means and how a value is written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, TypeAlias

from optlang.plan.expressions import Scalar, Value
from optlang.plan.model import Dimension

Kind: TypeAlias = "Dimension | Literal['plain', 'none']"
"""A dimension, or `plain` for a number without one (it goes with ratios, counts and plain numbers), or `none`."""

UNITS: dict[str, tuple[Dimension, Decimal]] = {
    "%": ("ratio", Decimal("0.01")),
    "ns": ("time", Decimal("1e-9")),
    "us": ("time", Decimal("1e-6")),
    "ms": ("time", Decimal("1e-3")),
    "s": ("time", Decimal(1)),
    "min": ("time", Decimal(60)),
    "h": ("time", Decimal(3600)),
    "d": ("time", Decimal(86400)),
    "B": ("bytes", Decimal(1)),
    "kB": ("bytes", Decimal(10**3)),
    "MB": ("bytes", Decimal(10**6)),
    "GB": ("bytes", Decimal(10**9)),
    "TB": ("bytes", Decimal(10**12)),
    "KiB": ("bytes", Decimal(2**10)),
    "MiB": ("bytes", Decimal(2**20)),
    "GiB": ("bytes", Decimal(2**30)),
    "TiB": ("bytes", Decimal(2**40)),
}
TYPES: dict[str, Dimension] = {
    "int": "count",
    "float": "number",
    "count": "count",
    "ratio": "ratio",
    "bool": "bool",
    "name": "name",
    "names": "names",
    "string": "string",
    "time": "time",
    "bytes": "bytes",
    "model": "model",
    "models": "models",
}
NUMERIC = frozenset({"plain", "ratio", "count", "number", "time", "bytes"})
SAID: dict[str, str] = {
    "plain": "a plain number",
    "ratio": "a ratio",
    "count": "a count",
    "number": "a plain number",
    "time": "a time",
    "bytes": "a size in bytes",
    "name": "a name",
    "names": "a list of names",
    "bool": "true or false",
    "string": "a text",
    "model": "a model",
    "models": "a list of models",
    "none": "none",
}
"""How a kind is spoken of in a message."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A value known from the text: exact decimals in SI units, texts, truths, lists of these, or None for `none`.

    `whole` holds for a number that was written (or computed) as an integer, which `3.0` and `1e3` are not.
    """

    value: bool | Decimal | str | tuple[Constant, ...] | None
    kind: Kind
    whole: bool = False


def quantity(value: Decimal, unit: str | None, whole: bool) -> Constant | None:
    """The number in SI units; None where the unit is not known."""
    if unit is None:
        return Constant(value, "plain", whole)
    if unit not in UNITS:
        return None
    kind, factor = UNITS[unit]
    return Constant(value * factor, kind)


def amount(text: str, kind: Kind) -> float | None:
    """What a quantity of this kind is in SI units, where it is written as in a study; None where it is none."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    read = None if found is None else quantity(Decimal(found[1]), found[2] or None, False)
    return None if read is None or read.kind != kind else float(str(read.value))


def common(left: Kind, right: Kind) -> Kind | None:
    """The kind of a sum, or of both sides of a comparison; None where the two do not go together."""
    if left == right:
        return left
    for one, other in ((left, right), (right, left)):
        if one == "plain" and other in ("ratio", "count", "number"):
            return other
        if one == "number" and other == "count":
            return "number"
    return None


def product(operator: str, left: Kind, right: Kind) -> Kind | None:
    """The kind of `left * right` or `left / right`; None where it would be a dimension the language does not have."""
    scales = ("plain", "number", "count", "ratio")
    if operator == "/":
        if left == right:
            return "plain"
        if left in ("time", "bytes"):
            return left if right in scales else None
        return "plain" if left in scales and right in scales else None
    if left in ("time", "bytes"):
        return left if right in scales else None
    if right in ("time", "bytes"):
        return right if left in scales else None
    return left if left == right else "plain"


def fits(kind: Kind, dimension: Dimension) -> bool:
    """Whether a value of this kind may stand where the declaration asks for `dimension`."""
    if kind == dimension:
        return True
    if dimension in ("ratio", "count", "number"):
        return kind == "plain" or (dimension == "number" and kind in ("count", "ratio"))
    return kind == "name" and dimension == "string"


def scalar(value: bool | Decimal | str, dimension: Kind) -> Scalar:
    """The plan's value of an exact one: integers for counts, whole bytes and whole plain numbers, else a float."""
    if isinstance(value, bool | str):
        return value
    integral = value == value.to_integral_value()
    if integral and dimension in ("count", "bytes", "plain"):
        return int(value)
    return float(value)


def value_of(constant: Constant, dimension: Kind) -> Value:
    """The plan's value of a constant."""
    if constant.value is None:
        return None
    if isinstance(constant.value, tuple):
        items = [
            scalar(item.value, item.kind) for item in constant.value if isinstance(item.value, bool | Decimal | str)
        ]
        return tuple(items)
    return scalar(constant.value, dimension)


def exact(value: float) -> Decimal:
    """The shortest decimal that reads back as `value`: what was written, as a rule."""
    return Decimal(repr(value))


def plain(value: Decimal) -> str:
    """A decimal without a trailing zero, with an exponent only where it is very large or very small."""
    if value == 0:
        return "0"
    value = value.normalize()
    if Decimal("1e-4") <= abs(value) < Decimal("1e15"):
        return f"{value:f}"
    mantissa, _, exponent = f"{value:e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def show(value: Value, dimension: Kind) -> str:
    """A value in the language's own words: 0.3 of a ratio is `30%`, 0.002 of a time `2ms`, None `none`."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(show(item, "string" if isinstance(item, str) else "plain") for item in value) + "]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' if dimension == "string" else value
    number = exact(value)
    if dimension == "ratio":
        return plain(number * 100) + "%"
    if dimension in ("time", "bytes") and number != 0:
        return _with_unit(number, dimension)
    return plain(number)


_READABLE = {"time": ("d", "h", "min", "s", "ms", "us", "ns"), "bytes": ("GiB", "GB", "MiB", "MB", "KiB", "kB", "B")}


def _with_unit(number: Decimal, dimension: str) -> str:
    # The unit that leaves the shortest number of at least one: `90s`, `30min`, `1.5s`.
    found: tuple[int, str] | None = None
    for spelling in _READABLE[dimension]:
        factor = UNITS[spelling][1]
        scaled = number / factor
        if abs(scaled) < 1 or scaled * factor != number:
            continue
        text = plain(scaled)
        if found is None or len(text) < found[0]:
            found = (len(text), text + spelling)
    smallest = _READABLE[dimension][-1]
    return found[1] if found is not None else plain(number / UNITS[smallest][1]) + smallest
