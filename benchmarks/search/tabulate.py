"""Carries out every point of a study once, and writes what was measured to a table, for screening.py.

    .venv/bin/python benchmarks/search/tabulate.py STUDY FOLDER

STUDY is one of those next to this file, `whole` (a digit classifier) or `transformer` (a small BERT on real text), and
its table is STUDY.json. FOLDER gets the database and the cache of the run, which goes on where it was left. The table
has the values of the goals by point (a latency is its ratio to the baseline's), the seconds that building and measuring
took, and those of each step by what it is the end of (its own settings, all steps before it, and the runtime where it
has its own result). A machine that does other work takes one trial's seconds for another's: with `--even` those of a
step are the median of the same technique, an epoch each, behind the same structural steps, and those of building and
measuring the median of the trials with the same last step on the same runtime.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spaces import TABULATED, keyed, point_of

from optlang.analysis.load import load
from optlang.plan.model import Plan
from optlang.run.budget import past_trial
from optlang.search import objectives
from optlang.search.observation import value_of
from optlang.space.recipe import Point, resolve
from optlang.store.writer import TrialRow, Writer

HERE = Path(__file__).resolve().parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=TABULATED, help="which study is carried out whole")
    parser.add_argument("folder", type=Path, help="where the run is kept")
    parser.add_argument("--even", action="store_true", help="seconds are medians of what is alike")
    arguments = parser.parse_args()
    folder, study = arguments.folder, HERE / f"{arguments.study}.opt"
    folder.mkdir(parents=True, exist_ok=True)
    from optlang.cli.app import command

    db = folder / "optlang.duckdb"
    code = command(["run", str(study), "--db", str(db), "--home", str(folder / "home"), "--progress", "plain"])
    if code not in (0, None):
        return int(code)
    plan = load(study).plan
    assert plan is not None
    with Writer(db) as store:
        found = table(plan, store.trials(store.runs(plan.study)[-1].run))
    if arguments.even:
        even(plan, found)
    text = json.dumps(found, separators=(",", ":")).replace('{"point"', '\n{"point"')
    study.with_suffix(".json").write_text(f"{text}\n")
    return 0


def table(plan: Plan, rows: list[TrialRow]) -> dict[str, Any]:
    """The table of a run's trials, as JSON."""
    baseline = objectives.by_metric(plan, rows[0].measurements)
    points: list[Mapping[str, Any]] = []
    steps: dict[str, float] = {}
    for row in rows:
        if not row.in_space:
            continue
        point: Point = {path: value_of(value) for path, value in row.point.items()}
        for key, step in zip(keys(plan, point), row.steps, strict=True):
            if step["cached"] is False:
                steps[key] = round(step["seconds"], 3)
        if row.state != "complete":
            continue
        values = objectives.objective_values(plan, objectives.by_metric(plan, row.measurements), baseline)
        points.append({"point": point, "values": [round(value, 6) for value in values], "rest": round(rest(row), 2)})
    accuracy = baseline[None, "accuracy"].value, baseline[None, "size"].value
    return {"baseline": dict(zip(("accuracy", "size"), accuracy, strict=True)), "steps": steps, "points": points}


def even(plan: Plan, found: dict[str, Any]) -> None:
    """Give what is alike the same seconds in a table."""
    alike: dict[str, dict[str, int]] = {}
    rests: dict[str, list[dict[str, Any]]] = {}
    for item in found["points"]:
        recipe = resolve(plan, point_of(item["point"]))
        before, last = "", ""
        for key, step in keyed(plan, recipe):
            alike.setdefault(f"{recipe.label}{before}{step.technique}", {})[key] = step.epochs or 1
            before += "" if step.epochs else f"{step.technique}{json.dumps(step.settings, sort_keys=True)}"
            last = step.technique
        rests.setdefault(f"{recipe.label}{last}", []).append(item)
    for group in alike.values():
        usual = statistics.median(found["steps"][key] / epochs for key, epochs in group.items())
        found["steps"].update({key: round(usual * epochs, 3) for key, epochs in group.items()})
    for items in rests.values():
        usual = statistics.median(item["rest"] for item in items)
        for item in items:
            item["rest"] = round(usual, 2)


def rest(row: TrialRow) -> float:
    """The seconds of a trial that no step took."""
    return past_trial(row).rest


def keys(plan: Plan, point: Point) -> list[str]:
    """What identifies the result of each step of a point."""
    return [key for key, _ in keyed(plan, resolve(plan, point))]


if __name__ == "__main__":
    raise SystemExit(main())
