"""Learning curves between the journal, where a curve is one object of lists, and the table, where an epoch is a row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]

_LISTED = ("epoch", "loss", "value", "seconds")
"""What differs from epoch to epoch."""
_ONCE = ("path", "target", "cached", "epochs", "metric")


def curve_event(path: str, cached: bool | None, epochs: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    """The curves of a step as `end` events have them: one for each target that has its own, else one."""
    whole = [{"path": path, "cached": cached, **item} for item in epochs]
    return _grouped(whole)


def curve_rows(run: str, trial: int, curves: Iterable[Mapping[str, Any]]) -> list[Row]:
    """A row for each epoch of a trial's curves."""
    rows = []
    for curve in curves:
        once = {name: curve.get(name) for name in _ONCE}
        lists = [curve.get(name) or [] for name in _LISTED]
        rows += [
            {"run": run, "trial": trial, **once, **dict(zip(_LISTED, values, strict=True))}
            for values in zip(*lists, strict=True)
        ]
    return rows


def curves_of(rows: Iterable[Row]) -> list[Row]:
    """The curves of a trial as `end` events have them, from its rows; the inverse of `curve_rows`."""
    return list(_grouped(rows))


def _grouped(rows: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name) for name in _ONCE), []).append(row)
    for key, group in groups.items():
        once = {name: value for name, value in zip(_ONCE, key, strict=True) if value is not None}
        yield {**once, **{name: [row[name] for row in group] for name in _LISTED}}
