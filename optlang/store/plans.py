"""The plans of a database's runs: read from their JSON once, and which of them another version of optlang stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optlang.interfaces import OutsideError

if TYPE_CHECKING:
    import duckdb

    from optlang.plan.model import Plan


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run and its plan: None where this version of optlang cannot read it. `optlang` is the one that stored it."""

    run: str
    study: str
    plan: Plan | None
    optlang: str | None

    @property
    def unreadable(self) -> str:
        """Why there is no plan, as a message."""
        stored = f"optlang {self.optlang}" if self.optlang else "another version of optlang"
        return f"run {self.run} of `{self.study}` was stored by {stored}, in a form that this version cannot read"

    def readable(self) -> Plan:
        """The plan; OutsideError where this version cannot read it."""
        if self.plan is None:
            raise OutsideError(
                self.unreadable, help="read it with the version that stored it, or run the study again with --new"
            )
        return self.plan


def read_plan(stored: str | Mapping[str, Any] | None) -> Plan | None:
    """The plan that was stored as JSON; None where this version of optlang has another form of plans."""
    from pydantic import ValidationError

    from optlang.plan.model import Plan

    try:
        return Plan.model_validate_json(stored or "") if isinstance(stored, str | None) else Plan.model_validate(stored)
    except ValidationError:
        return None


def stored_runs(connection: duckdb.DuckDBPyConnection) -> list[StoredRun]:
    """All runs of a database, oldest first."""
    rows = connection.execute(
        "SELECT r.run, r.study, r.plan, (SELECT arg_max(s.optlang, s.started) FROM sessions s WHERE s.run = r.run) "
        "FROM runs r ORDER BY r.started, r.run"
    ).fetchall()
    return [StoredRun(run, study, read_plan(plan), version) for run, study, plan, version in rows]
