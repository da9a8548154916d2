"""Interval arithmetic: between which two numbers an expression lies, given what its references can be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from optlang.plan.expressions import Binary, Const, Expression, If, Unary
from optlang.plan.model import Domain, FloatDomain, IntDomain, ListDomain, SetDomain


@dataclass(frozen=True, slots=True)
class Interval:
    """All numbers from `low` to `high`, both included where they are finite."""

    low: float
    high: float

    def __add__(self, other: Interval) -> Interval:
        return Interval(self.low + other.low, self.high + other.high)

    def __neg__(self) -> Interval:
        return Interval(-self.high, -self.low)

    def __mul__(self, other: Interval) -> Interval:
        # Zero times what grows without end stays zero.
        ends = [a and b and a * b for a in (self.low, self.high) for b in (other.low, other.high)]
        return Interval(min(ends), max(ends))

    def __or__(self, other: Interval) -> Interval:
        return Interval(min(self.low, other.low), max(self.high, other.high))

    def apart(self, other: Interval) -> bool:
        """Whether no number is in both."""
        return self.high < other.low or other.high < self.low


ANY = Interval(-inf, inf)


def of_domain(domain: Domain) -> Interval:
    """What a knob of this domain can be; `ANY` where not all values are numbers."""
    match domain:
        case IntDomain(low=low, high=high) | FloatDomain(low=low, high=high):
            return Interval(float(low), float(high))
        case SetDomain(values=values) | ListDomain(values=values):
            numbers = [float(value) for value in values if isinstance(value, int | float)]
            if len(numbers) == len(values):
                return Interval(min(numbers), max(numbers))
    return ANY


def order(operator: str, one: Interval, other: Interval) -> bool | None:
    """Whether a comparison holds of all numbers of two intervals; None where that depends on which."""
    match operator:
        case "<":
            return True if one.high < other.low else False if one.low >= other.high else None
        case "<=":
            return True if one.high <= other.low else False if one.low > other.high else None
        case ">" | ">=":
            return order("<" if operator == ">" else "<=", other, one)
    if one.apart(other):
        return operator == "!="
    return operator == "==" if one.low == one.high == other.low == other.high else None


def truth(expression: Expression, of: Callable[[Expression], Interval]) -> bool | None:
    """Whether a condition on numbers holds wherever its references are; None where that depends on it."""
    match expression:
        case Unary(operator="not", operand=operand):
            inner = truth(operand, of)
            return None if inner is None else not inner
        case Binary(operator="and" | "or" as word, left=left, right=right):
            sides = truth(left, of), truth(right, of)
            decides = word == "or"
            return decides if decides in sides else None if None in sides else not decides
        case Binary(operator="==" | "!=" | "<" | "<=" | ">" | ">=" as sign, left=left, right=right):
            return order(sign, interval(left, of), interval(right, of))
    return None


def interval(expression: Expression, of: Callable[[Expression], Interval]) -> Interval:
    """What a number can be, each reference on its own: too wide where one stands in it twice.

    `of` says what a reference can be.
    """
    match expression:
        case Const(value=value) if isinstance(value, int | float) and not isinstance(value, bool):
            return Interval(float(value), float(value))
        case Unary(operator="-", operand=operand):
            return -interval(operand, of)
        case Binary(operator="+" | "-" | "*" | "/" as operator, left=left, right=right):
            one, other = interval(left, of), interval(right, of)
            if operator == "/":
                # A division by zero has no value at all.
                return ANY if other.low <= 0 <= other.high else one * Interval(1 / other.high, 1 / other.low)
            return one * other if operator == "*" else one + (other if operator == "+" else -other)
        case If(then=then, otherwise=otherwise):
            return interval(then, of) | interval(otherwise, of)
    return of(expression)
