"""The command `plan`: what a study would do. Runs nothing that a study names."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optlang.cli.check import plan_of
from optlang.cli.exits import usage
from optlang.cli.options import DEFAULT_DB, Db, Sets, StudyFile
from optlang.plan.quantities import counted

if TYPE_CHECKING:
    from optlang.plan.model import Plan
    from optlang.report.plan.describe import LadderCost
    from optlang.search.ablation import AblationTrial
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
    from optlang.report.plan.describe import describe, searched, text
    from optlang.search.ablation import ablation_trials
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
    rungs = list(ablation_trials(study, space, {})) if study.search.ladder else []
    size, ladder = space.size(), _ladder(study, space, rungs)
    sys.stdout.write(text(describe(study, size, ladder)))
    for lines in (_refused(study, file, db), ["", *_how_long(study, rungs, searched(study, size, ladder), db)]):
        sys.stdout.writelines(f"{line}\n" for line in lines)
    return 0


def _ladder(study: Plan, space: Space, rungs: Sequence[AblationTrial]) -> LadderCost:
    """What a run tries before its search: the baseline, and each technique alone."""
    from optlang.report.plan.describe import LadderCost
    from optlang.search.ablation import baseline_recipe
    from optlang.space.locate import locate
    from optlang.space.trainings import trainings

    points = sum(rung.point is not None for rung in rungs)
    baseline = locate(study, space, baseline_recipe(study)) is not None
    return LadderCost(len(rungs), points, trainings(study, [rung.recipe for rung in rungs]), points + baseline)


def _how_long(study: Plan, rungs: Sequence[AblationTrial], most: int | None, db: Path) -> list[str]:
    """How long a run will take, as far as the database knows what its trials take."""
    from optlang.run.how_long import UNKNOWN, past_run, said

    past = past_run(study, db)
    return [UNKNOWN] if past is None else said(study, past, [rung.recipe for rung in rungs], most)


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
