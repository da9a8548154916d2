"""What failed trials prove to be refused, and for how long: it is stored with them, for other sessions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from optlang.interfaces import JSON, OptlangError
from optlang.plan.model import Plan
from optlang.run.cache import key_of
from optlang.run.job import Failure
from optlang.run.machine import versions
from optlang.space.known_refusals import KnownRefusal, KnownRefusals, refusal_from
from optlang.space.recipe import Applied, Place, Recipe
from optlang.store.reader import query
from optlang.workload import imports

NOTE = "refused"
"""The note of a trial that its refusal is kept in."""

FailedTrial: TypeAlias = "tuple[int, str | None, Mapping[str, Any]]"
"""A trial's number, the reason why it failed, and its notes."""

# What the answer of a step may depend on besides the steps before it.
_RUNTIMES = frozenset({"runtime", "latency"})


def refusal_of(plan: Plan, trial: int, recipe: Recipe, failure: Failure) -> KnownRefusal | None:
    """What a refused trial proves; None where nobody refused it, or the baseline's own steps did."""
    refused = failure.refused
    if refused is None:
        return None
    places = tuple(place for place in recipe.places if refused.target in (None, place.target.name))
    if refused.step is None:
        depends = refused.depends if _bare(plan, recipe.steps) else "settings"
        return KnownRefusal(trial, failure.reason, depends, recipe.steps, True, places)
    steps = _until(recipe, refused.step)
    if steps is None:
        return None
    depends = refused.depends if _bare(plan, steps[:-1]) else "settings"
    return KnownRefusal(trial, failure.reason, depends, steps, False, places if _asks(plan, steps, places) else ())


def timeout_refusal(
    plan: Plan, trial: int, recipe: Recipe, path: str, seconds: float, reason: str
) -> KnownRefusal | None:
    """What a trial proves whose time was up while it did the step at `path`, for so long; None where that is none."""
    steps = _until(recipe, path)
    if steps is None:
        return None
    places = recipe.places if _asks(plan, steps, recipe.places) else ()
    return KnownRefusal(trial, reason, "time", steps, False, places, seconds)


def _until(recipe: Recipe, path: str) -> tuple[Applied, ...] | None:
    paths = [step.path for step in recipe.steps]
    return recipe.steps[: paths.index(path) + 1] if path in paths else None


def _bare(plan: Plan, steps: Sequence[Applied]) -> bool:
    """Whether the steps leave the layers of the baseline as they are."""
    return all("weights_only" in plan.technique(step.technique).traits for step in steps)


def _asks(plan: Plan, steps: Sequence[Applied], places: Iterable[Place]) -> bool:
    """Whether what the steps do depends on the runtime."""
    return any(
        not _RUNTIMES.isdisjoint(plan.technique(step.technique).needs)
        or any(plan.runtime(place.runtime).carries_out(step.technique) for place in places)
        for step in steps
    )


def refusal_note(plan: Plan, refusal: KnownRefusal, folder: Path) -> dict[str, JSON]:
    """What is stored of a refusal with its trial."""
    return {NOTE: {**refusal.to_json(), "code": _code(plan, refusal, folder)}}


def stored_refusals(plan: Plan, db: Path) -> tuple[str | None, list[FailedTrial]]:
    """The newest run of a plan in a database, and its failed trials."""
    rows = query(
        "SELECT t.run, t.trial, t.reason, t.notes FROM trials t WHERE t.state = 'failed' AND t.notes IS NOT NULL "
        "AND t.run = (SELECT r.run FROM runs r JOIN sessions s ON s.run = r.run WHERE r.study = ? AND r.meaning = ? "
        "ORDER BY s.started DESC LIMIT 1) ORDER BY t.trial",
        [db], [plan.study, plan.meaning],
    ).rows
    return rows[0][0] if rows else None, [
        (trial, reason, json.loads(notes) if isinstance(notes, str) else notes) for _, trial, reason, notes in rows
    ]


def known_refusals(plan: Plan, folder: Path, stored: Iterable[FailedTrial]) -> KnownRefusals:
    """The refusals in the trials' notes that still hold: by the same code and libraries."""
    refusals = KnownRefusals(plan)
    for refusal in _read(plan, folder, stored):
        refusals.add(refusal)
    return refusals


def _read(plan: Plan, folder: Path, stored: Iterable[FailedTrial]) -> Iterator[KnownRefusal]:
    for trial, reason, notes in stored:
        note = notes.get(NOTE)
        if note is None:
            continue
        refusal = refusal_from(trial, reason or "", note)
        try:
            if note["code"] == _code(plan, refusal, folder):
                yield refusal
        except (OptlangError, KeyError):
            # Its technique or its Python is gone: nothing is known then.
            continue


def _code(plan: Plan, refusal: KnownRefusal, folder: Path) -> str:
    """A hash of all code that the answer came from: model, data, techniques, runtimes, and the libraries' versions."""
    calls = [plan.model.calls, plan.data.calls]
    calls += [plan.technique(step.technique).calls for step in refusal.steps]
    calls += [plan.runtime(place.runtime).calls for place in refusal.places]
    calls += [item for step in refusal.steps for value in step.settings.values() for item in _models(value)]
    return key_of([imports.fingerprint(item, folder) for item in calls], versions())


def _models(value: JSON) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield str(value["calls"])
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from _models(item)


def refusal_text(refusal: KnownRefusal) -> str:
    """What the run reports when it learns of the refusal: what is skipped, why, and what is still tried."""
    if refusal.depends == "time":
        return (
            f"{refusal.what} took longer than `trial_timeout`: it is skipped from now on with these settings or "
            "costlier ones (a larger trial_timeout tries it again)"
        )
    if refusal.depends == "settings":
        return f"points that begin with {refusal.what} are skipped from now on: {refusal.reason}"
    kept = "other settings of the runtime are still tried" if refusal.places else "no setting of it would help"
    return f"{refusal.what} is skipped from now on ({kept}): {refusal.reason}"
