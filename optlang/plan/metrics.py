"""What is known of metrics by name: their aliases, their units, and which ones count by their ratio to the baseline.

Which metrics there are, their types and directions, and which of them optlang measures: stdlib/metrics.opt.
Imports nothing: the views are made without loading a plan.
"""

from __future__ import annotations

MEDIAN = "latency.p50"
"""The median time of a call, which every trial that ran on its target has."""

ALIASES = {"latency": MEDIAN}
"""Short names of metrics, as a study may write them and as the views have a column of them."""

BUILT = frozenset({"size", "size.compressed", "size.weights", "parameters", "macs", "sparsity", "quantized", "halved"})
"""The metrics that are known of what was built, without running it: they are counted, and have no noise."""

AGREEMENT = ("agreement", "agreement.cosine", "agreement.error")
"""How far answers agree with the baseline's: measured of every trial, with labels or without."""

ALIKE = 0.01
"""Figures without an interval (bytes, parameters, macs) that differ by no more than this share are alike: two files of
one network differ by as much in names and padding."""

TEST = "test."
"""What the names of metrics on the data's test part begin with; no goal and no requirement may name one."""

UNITS: dict[str, str] = {"time": "s", "bytes": "B", "ratio": "ratio", "count": "count"}
"""The unit of a measurement by the metric's type; a metric of another type has none (\"\")."""


def full_name(name: str) -> str:
    """The metric that `name`, which may be an alias, stands for."""
    return ALIASES.get(name, name)


def short_name(name: str) -> str:
    """The alias of a metric, or its own name where it has none."""
    return next((alias for alias, metric in ALIASES.items() if metric == name), name)


def validated(name: str) -> str:
    """The metric that a metric on the test data is, or `name` itself."""
    return name.removeprefix(TEST)


def is_relative(name: str) -> bool:
    """Whether an objective on this metric compares ratios to the baseline, which was measured next to the trial."""
    return name.startswith("latency.") or name == "throughput"
