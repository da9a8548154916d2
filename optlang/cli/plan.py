"""The command `plan`: what a study would do. Runs nothing that a study names."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optlang.cli.check import plan_of
from optlang.cli.exits import usage
from optlang.cli.options import DEFAULT_DB, Db, Sets, StudyFile
from optlang.plan.quantities import counted, in_seconds

if TYPE_CHECKING:
    from optlang.plan.model import Plan
    from optlang.report.plan.describe import LadderCost
    from optlang.space.space import Space


def plan(
    file: StudyFile,
    json: Annotated[bool, typer.Option("--json", help="The plan as JSON.")] = False,
    dot: Annotated[bool, typer.Option("--dot", help="The pipeline with its knobs as a graph, for Graphviz.")] = False,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="The same graph as a Mermaid flowchart.")] = False,
    set_: Sets = None,
    db: Db = DEFAULT_DB,
) -> int:
    """Show what a study would do: knobs, settings, size of the space, what a run consists of. Runs nothing."""
    from optlang.report.plan.describe import describe, text
    from optlang.space.space import Space

    if json + dot + mermaid > 1:
        raise usage("--json, --dot and --mermaid exclude each other", "ask once for each")
    study, _ = plan_of(file, set_)
    if json:
        sys.stdout.write(study.model_dump_json(indent=2) + "\n")
        return 0
    if dot or mermaid:
        from optlang.report.plan import diagram

        drawn = diagram.picture(study)
        sys.stdout.write(diagram.dot(drawn) if dot else diagram.mermaid(drawn))
        return 0
    space = Space(study)
    sys.stdout.write(text(describe(study, space.size(), _ladder(study, space))))
    sys.stdout.writelines(f"{line}\n" for line in _refused(study, file, db))
    seconds = _seconds_a_trial(study.study, db)
    if seconds is not None and study.search.most is not None:
        sys.stdout.write(
            f"\nA searched trial took {in_seconds(seconds)} so far, so {study.search.most} take about "
            f"{in_seconds(seconds * study.search.most)}.\n"
        )
    return 0


def _ladder(study: Plan, space: Space) -> LadderCost:
    """What a run tries before its search: the baseline, and each technique alone."""
    from optlang.report.plan.describe import LadderCost
    from optlang.search.ablation import ablation_trials, baseline_recipe
    from optlang.space.locate import locate
    from optlang.space.trainings import trainings

    rungs = list(ablation_trials(study, space, {})) if study.search.ladder else []
    points = sum(rung.point is not None for rung in rungs)
    baseline = locate(study, space, baseline_recipe(study)) is not None
    return LadderCost(len(rungs), points, trainings(study, [rung.recipe for rung in rungs]), points + baseline)


LISTED = 10_000
"""Points that are counted one by one, to say how many of them are left."""


def _refused(study: Plan, file: Path, db: Path) -> list[str]:
    """What the newest run of this study found refused, as the database knows it, and how many points that leaves."""
    if not db.exists():
        return []
    from optlang.run.refusals import known_refusals, stored_refusals
    from optlang.space.space import Space

    run, trials = stored_refusals(study, db)
    refusals = known_refusals(study, file.resolve().parent, trials)
    if not refusals:
        return []
    lines = ["", f"refused in run {run}, and left out"]
    lines += [f"  {refusal.what}: {refusal.reason} (trial {refusal.trial})" for refusal in refusals]
    size = Space(study).size()
    if size.exact and not size.continuous and size.points <= LISTED:
        left = sum(1 for _ in Space(study, refusals=refusals).points())
        lines.append(f"  {left:,} of {counted(size.points, 'point')} are left")
    return lines


def _seconds_a_trial(study: str, db: Path) -> float | None:
    """The mean time of a trial of this study, as the database knows it."""
    if not db.exists():
        return None
    from optlang.store.reader import query

    sql = "SELECT avg(seconds) FROM results WHERE study = ? AND origin = 'sampler' AND state <> 'failed'"
    rows = query(sql, [db], [study]).rows
    return rows[0][0] if rows else None
