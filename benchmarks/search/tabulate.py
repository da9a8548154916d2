"""Carries out every point of whole.opt once, and writes what was measured to whole.json, for screening.py.

    .venv/bin/python benchmarks/search/tabulate.py FOLDER

FOLDER gets the database and the cache of the run, which goes on where it was left. The table has the values of the
goals by point (a latency is its ratio to the baseline's), the seconds that building and measuring took, and those of
each step by what it is the end of (its own settings, all steps before it, and the runtime where it has its own result).
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from screening import keyed

from optlang.analysis.load import load
from optlang.plan.model import Plan
from optlang.run.budget import past_trial
from optlang.search import objectives
from optlang.search.observation import value_of
from optlang.space.recipe import Point, resolve
from optlang.store.writer import TrialRow, Writer

HERE = Path(__file__).resolve().parent
STUDY, TABLE = HERE / "whole.opt", HERE / "whole.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the run is kept")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    from optlang.cli.app import command

    study = shutil.copy(STUDY, folder)
    db = folder / "optlang.duckdb"
    code = command(["run", str(study), "--db", str(db), "--home", str(folder / "home"), "--progress", "plain"])
    if code not in (0, None):
        return int(code)
    plan = load(STUDY).plan
    assert plan is not None
    with Writer(db) as store:
        found = table(plan, store.trials(store.runs(plan.study)[-1].run))
    TABLE.write_text(json.dumps(found, separators=(",", ":")).replace('{"point"', '\n{"point"') + "\n")
    return 0


def table(plan: Plan, rows: list[TrialRow]) -> dict[str, Any]:
    """The table of a run's trials, as JSON."""
    baseline = objectives.by_metric(plan, rows[0].measurements)
    points: list[Mapping[str, Any]] = []
    steps: dict[str, float] = {}
    for row in rows:
        if row.state != "complete" or (row.origin == "baseline" and not row.in_space):
            continue
        point: Point = {path: value_of(value) for path, value in row.point.items()}
        values = objectives.objective_values(plan, objectives.by_metric(plan, row.measurements), baseline)
        points.append({"point": point, "values": [round(value, 6) for value in values], "rest": round(rest(row), 2)})
        for key, step in zip(keys(plan, point), row.steps, strict=True):
            if step["cached"] is False:
                steps[key] = round(step["seconds"], 3)
    accuracy = baseline[None, "accuracy"].value, baseline[None, "size"].value
    return {"baseline": dict(zip(("accuracy", "size"), accuracy, strict=True)), "steps": steps, "points": points}


def rest(row: TrialRow) -> float:
    """The seconds of a trial that no step took."""
    return past_trial(row).rest


def keys(plan: Plan, point: Point) -> list[str]:
    """What identifies the result of each step of a point."""
    return [key for key, _ in keyed(plan, resolve(plan, point))]


if __name__ == "__main__":
    raise SystemExit(main())
