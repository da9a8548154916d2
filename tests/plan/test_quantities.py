"""Numbers as people write them."""

import pytest

from optlang.plan.quantities import apart, change, compared, in_bytes, in_percent, in_seconds, points, quantity, times


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12_510, "12.5 kB"),
        (83_353, "83.4 kB"),
        (999, "999 B"),
        (999.6, "1.00 kB"),
        (999_600, "1.00 MB"),
        (11_200_000, "11.2 MB"),
        (0, "0 B"),
        (1.5e9, "1.50 GB"),
    ],
)
def test_bytes(value: float, text: str) -> None:
    assert in_bytes(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (21e-6, "21.0 µs"),
        (188e-6, "188 µs"),
        (1.5e-3, "1.50 ms"),
        (999.9e-6, "1.00 ms"),
        (2.5, "2.50 s"),
        (90, "90.0 s"),
        (600, "10 min"),
        (3 * 3600 + 300, "3 h 05 min"),
        (0, "0 s"),
        (4e-10, "0.400 ns"),
    ],
)
def test_seconds(value: float, text: str) -> None:
    assert in_seconds(value) == text


def test_ratios_points_and_times() -> None:
    assert in_percent(0.9933) == "99.3 %"
    assert [times(value) for value in (6.7, 0.8, 15.94, 1.0, 99.97, 123.4)] == [
        "×6.7",
        "×0.80",
        "×16",
        "×1.0",
        "×100",
        "×123",
    ]
    assert [points(value) for value in (0.004, -0.0012, 0.0, 0.0004, 0.25)] == ["−0.4", "+0.1", "0.0", "0.0", "−25.0"]


def test_a_quantity_follows_its_unit() -> None:
    assert [quantity(1234.5, unit) for unit in ("s", "B", "count", "")] == ["21 min", "1.23 kB", "1,234", "1234"]
    assert quantity(0.5, "ratio") == "50.0 %"
    assert quantity(12.3456, "") == "12.35"


def test_a_change_is_in_points_or_in_the_unit() -> None:
    assert change(0.012, "ratio") == "−1.2"
    assert [change(value, "") for value in (0.0123, -0.5, 0.0)] == ["−0.01230", "+0.5000", "0"]
    assert change(-120, "count") == "+120"
    assert [compared(6.7, None, "B"), compared(None, 0.012, "ratio"), compared(None, None, "s")] == ["×6.7", "−1.2", ""]


def test_two_quantities_are_told_apart() -> None:
    assert apart(0.525, 0.925, "ratio") == ("52.5 %", "92.5 %", "40.0 points")
    assert apart(0.8999, 0.9, "ratio") == ("89.99 %", "90.00 %", "0.01 points")
    assert apart(100_001, 100_000, "B") == ("100.001 kB", "100.000 kB", "1 B")
    assert apart(5000.25, 5000, "count") == ("5,000.2", "5,000.0", "0.2")
    assert apart(0.002, 0.002, "s") == ("2.00 ms", "2.00 ms", "0 s")
