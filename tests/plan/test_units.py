"""Quantities are exact, and are written back as they were read."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optlang.plan.units import UNITS, Kind, common, exact, product, quantity, scalar, show

WRITTEN = [
    (0.3, "ratio", "30%"), (0.125, "ratio", "12.5%"), (0.0, "ratio", "0%"), (0.002, "time", "2ms"),
    (1800.0, "time", "30min"), (90.0, "time", "90s"), (1.5, "time", "1.5s"), (4 * 2**30, "bytes", "4GiB"),
    (8_000_000, "bytes", "8MB"), (1e-7, "number", "1e-7"), (0.001, "number", "0.001"), (64, "count", "64"),
    (True, "bool", "true"), (None, "name", "none"), ("minmax", "name", "minmax"), ('a"b', "string", '"a\\"b"'),
    (("head", "*.norm"), "names", '["head", "*.norm"]'),
]


@pytest.mark.parametrize(("value", "dimension", "text"), WRITTEN)
def test_a_value_in_the_words_of_the_language(value: object, dimension: Kind, text: str) -> None:
    assert show(value, dimension) == text  # type: ignore[arg-type]


@given(st.integers(0, 1000), st.sampled_from(sorted(UNITS)))
def test_what_is_written_reads_back(number: int, unit: str) -> None:
    constant = quantity(Decimal(number) / 10, unit, False)
    assert constant is not None
    assert isinstance(constant.value, Decimal)
    value = scalar(constant.value, constant.kind)
    text = show(value, constant.kind)
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ%")
    again = quantity(Decimal(digits), text[len(digits):] or None, False)
    assert again is not None
    assert again.value == exact(value)  # type: ignore[arg-type]


def test_percent_is_the_nearest_float() -> None:
    for percent in range(1, 100):
        constant = quantity(Decimal(percent), "%", True)
        assert constant is not None
        assert isinstance(constant.value, Decimal)
        assert scalar(constant.value, "ratio") == float(f"0.{percent:02d}")


@pytest.mark.parametrize(("left", "right", "kind"), [
    ("ratio", "plain", "ratio"), ("count", "plain", "count"), ("number", "count", "number"), ("bytes", "ratio", None),
    ("time", "plain", None), ("count", "ratio", None), ("name", "name", "name"),
])
def test_what_can_be_added(left: Kind, right: Kind, kind: Kind | None) -> None:
    assert common(left, right) == common(right, left) == kind


@pytest.mark.parametrize(("operator", "left", "right", "kind"), [
    ("*", "plain", "bytes", "bytes"), ("*", "ratio", "time", "time"), ("/", "bytes", "bytes", "plain"),
    ("*", "time", "time", None), ("/", "plain", "time", None), ("*", "ratio", "count", "plain"),
])
def test_what_can_be_multiplied(operator: str, left: Kind, right: Kind, kind: Kind | None) -> None:
    assert product(operator, left, right) == kind
