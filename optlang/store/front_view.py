"""The SQL of the view `front`: what no other trial dominates, and what is within noise of that.

`search/pareto.py` and `search/ties.py` say the same in Python; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Goal:
    """An objective of a run as SQL: its value with the sign with which more is better, NULL where it was not measured,
    and within which values it may lie."""

    score: str
    low: str
    high: str


ABSENT = Goal("0.0", "0.0", "0.0")
"""In place of an objective that another run has, and this one has not."""


def front_view(goals: Mapping[str, Sequence[Goal]], latest: str, joined: str) -> str:
    """The statement that makes the view, of runs by their names as SQL quotes them.

    `latest` are the queries that it reads from, `joined` the tables.
    """
    count = max((len(found) for found in goals.values()), default=0)
    names = [f"o{index}" for index in range(count)]
    chosen = ", ".join(goals) or "NULL"
    measured = " AND ".join(f"{name} IS NOT NULL" for name in names) or "true"
    return (
        f"CREATE VIEW front AS WITH RECURSIVE {latest}, "
        f"scored AS MATERIALIZED (SELECT * FROM (SELECT t.run, t.trial{_items(goals, count)} FROM {joined} "
        f"WHERE t.run IN ({chosen}) AND t.state = 'complete' AND (t.in_space OR t.trial = 0)) WHERE {measured}), "
        f"{_members(names, chosen)}, {_ties(count)} "
        "SELECT results.*, tied.tie_of FROM results "
        "JOIN (SELECT run, trial, NULL::INTEGER AS tie_of FROM members ANTI JOIN tied USING (run, trial) "
        "UNION ALL FROM tied) tied ON tied.run = results.run AND tied.trial = results.trial "
        "ORDER BY results.study, results.trial"
    )


def _items(goals: Mapping[str, Sequence[Goal]], count: int) -> str:
    """A column for each objective's value, and two for its ends."""
    items = ""
    for index in range(count):
        each = {run: found[index] if index < len(found) else ABSENT for run, found in goals.items()}
        for name in ("score", "low", "high"):
            cases = " ".join(f"WHEN {run} THEN {getattr(goal, name)}" for run, goal in each.items())
            items += f", CASE t.run {cases} END AS {'o' if name == 'score' else name}{index}"
    return items


def _members(names: Sequence[str], chosen: str) -> str:
    """The baseline and what no other dominates: first against the trials of the best ranks, then all that are left.

    Domination is transitive, so whatever the first round removes is needed by nobody in the second.
    """
    better = " AND ".join(
        [
            *(f"b.{name} >= a.{name}" for name in names),
            f"({' OR '.join(f'b.{name} > a.{name}' for name in names) or 'false'})",
        ]
    )
    ranks = " + ".join(f"rank() OVER (PARTITION BY run ORDER BY {name} DESC)" for name in names) or "trial"
    return (
        f"ranked AS (SELECT *, {ranks} AS ranks FROM scored), "
        "champions AS MATERIALIZED (SELECT * FROM ranked "
        "QUALIFY row_number() OVER (PARTITION BY run ORDER BY ranks) <= 100), "
        f"left_over AS MATERIALIZED (SELECT * FROM scored a WHERE NOT EXISTS "
        f"(SELECT 1 FROM champions b WHERE b.run = a.run AND {better})), "
        f"members AS MATERIALIZED (SELECT run, trial FROM left_over a WHERE NOT EXISTS "
        f"(SELECT 1 FROM left_over b WHERE b.run = a.run AND {better}) "
        f"UNION SELECT run, trial FROM trials WHERE trial = 0 AND run IN ({chosen}))"
    )


def _ties(count: int) -> str:
    """What is within noise of a member, with the member that stands for it.

    The members are gone through in the order of their goals (`place`), and one is kept if no kept one is like it.
    """
    order = ", ".join([*(f"o{index} DESC" for index in range(count)), "trial"])
    alike = " AND ".join(
        f"a.low{index} <= b.high{index} AND b.low{index} <= a.high{index}" for index in range(count)
    ) or "false"
    return (
        f"placed AS MATERIALIZED (SELECT scored.*, row_number() OVER (PARTITION BY run ORDER BY {order}) AS place "
        "FROM scored SEMI JOIN members USING (run, trial) WHERE trial <> 0), "
        "rivals AS MATERIALIZED (SELECT b.run, b.place, any_value(b.trial) AS trial, "
        "coalesce(list(a.place) FILTER (a.place IS NOT NULL), []) AS before FROM placed b "
        f"LEFT JOIN placed a ON a.run = b.run AND a.place < b.place AND {alike} GROUP BY b.run, b.place), "
        "kept AS (SELECT DISTINCT run, 0::BIGINT AS place, []::BIGINT[] AS places FROM placed UNION ALL "
        "SELECT k.run, r.place, if(list_has_any(r.before, k.places), k.places, list_append(k.places, r.place)) "
        "FROM kept k JOIN rivals r ON r.run = k.run AND r.place = k.place + 1), "
        "standing AS (SELECT p.* FROM placed p JOIN (SELECT run, arg_max(places, place) AS places FROM kept "
        "GROUP BY run) k ON k.run = p.run AND list_contains(k.places, p.place)), "
        "tied AS MATERIALIZED (SELECT b.run, b.trial, arg_min(a.trial, a.place) AS tie_of FROM scored b "
        f"JOIN standing a ON a.run = b.run AND {alike} WHERE b.trial <> 0 "
        "AND NOT EXISTS (SELECT 1 FROM standing s WHERE s.run = b.run AND s.trial = b.trial) GROUP BY b.run, b.trial)"
    )
