"""What a domain holds: membership, subsets, how many values, and how it is written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import permutations

from optlang.plan.expressions import Scalar, Value
from optlang.plan.model import Domain, FloatDomain, IntDomain, ListDomain, OrderDomain, SetDomain
from optlang.plan.units import Kind, show


def contains(domain: Domain, value: Value) -> bool:
    """Whether `value` is one of the domain's; booleans and numbers are distinct."""
    match domain:
        case SetDomain(values=values) | ListDomain(values=values):
            return any(value == item and isinstance(value, bool) is isinstance(item, bool) for item in values)
        case IntDomain(low=low, high=high):
            return (
                isinstance(value, int | float)
                and not isinstance(value, bool)
                and value == int(value)
                and low <= value <= high
            )
        case FloatDomain(low=low, high=high):
            return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        case OrderDomain(labels=labels):
            return isinstance(value, tuple) and sorted(map(str, value)) == sorted(labels)
    raise AssertionError(domain)


def subset(narrow: Domain, wide: Domain) -> bool:
    """Whether every value of `narrow` is one of `wide`."""
    match narrow:
        case SetDomain(values=values) | ListDomain(values=values):
            return all(contains(wide, value) for value in values)
        case IntDomain(low=low, high=high) | FloatDomain(low=low, high=high):
            if isinstance(wide, IntDomain | FloatDomain):
                return wide.low <= low and high <= wide.high
            options = values_of(narrow)
            return options is not None and len(options) <= 10_000 and all(contains(wide, item) for item in options)
    return narrow == wide


def size(domain: Domain) -> int | None:
    """How many values it has; None where it is continuous."""
    match domain:
        case SetDomain(values=values) | ListDomain(values=values):
            return len(values)
        case IntDomain(low=low, high=high):
            return high - low + 1
        case OrderDomain(labels=labels):
            return math.factorial(len(labels))
    return None


def every_value(domain: Domain) -> Iterator[Value]:
    """All values of a finite domain, in its order; a continuous one has none to list (ValueError)."""
    match domain:
        case SetDomain(values=values) | ListDomain(values=values):
            yield from values
        case IntDomain(low=low, high=high):
            yield from range(low, high + 1)
        case OrderDomain(labels=labels):
            yield from permutations(labels)
        case FloatDomain():
            raise ValueError("a continuous domain has no list of values")


def values_of(domain: Domain) -> list[Scalar] | None:
    """All values in their order; None where it is continuous, has very many, or is an order."""
    match domain:
        case SetDomain(values=values) | ListDomain(values=values):
            return list(values)
        case IntDomain(low=low, high=high):
            return list(range(low, high + 1)) if high - low < 100_000 else None
    return None


def show_domain(domain: Domain, dimension: Kind) -> str:
    """The domain in the language's own words."""
    match domain:
        case SetDomain(values=values):
            return "{" + ", ".join(show(value, dimension) for value in values) + "}"
        case ListDomain(values=values):
            if len(values) > 8:
                first, second, last = (show(value, dimension) for value in (values[0], values[1], values[-1]))
                return f"[{first}, {second}, … {last}]"
            return "[" + ", ".join(show(value, dimension) for value in values) + "]"
        case IntDomain(low=low, high=high, log=log) | FloatDomain(low=low, high=high, log=log):
            return f"{show(low, dimension)} .. {show(high, dimension)}{' log' if log else ''}"
        case OrderDomain(labels=labels):
            return "any order {" + ", ".join(labels) + "}"
    raise AssertionError(domain)
