"""The command `plan`: what a study would do. Runs nothing that a study names, but for `--measure`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optlang.cli.check import plan_of
from optlang.cli.exits import INTERRUPTED, usage
from optlang.cli.options import DEFAULT_DB, Db, Home, Sets, StudyFile
from optlang.plan.quantities import counted

if TYPE_CHECKING:
    from optlang.plan.model import Plan
    from optlang.report.plan.describe import LadderCost
    from optlang.run.how_long import PastRun
    from optlang.search.ablation import AblationTrial
    from optlang.space.recipe import Recipe
    from optlang.space.space import Space


def plan(
    file: StudyFile,
    json: Annotated[bool, typer.Option("--json", help="The plan as JSON.")] = False,
    dot: Annotated[bool, typer.Option("--dot", help="The pipeline with its knobs as a graph, for Graphviz.")] = False,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="The same graph as a Mermaid flowchart.")] = False,
    set_: Sets = None,
    db: Db = DEFAULT_DB,
    measure: Annotated[
        bool, typer.Option("--measure", help="Try each technique and runtime once, to say how long a run takes."),
    ] = False,
    home: Home = None,
) -> int:
    """Show what a study would do: knobs, settings, size of the space, what a run consists of and how long it takes.

    Runs nothing, but for --measure.
    """
    from optlang.report.plan.describe import describe, searched, text
    from optlang.search.ablation import ablation_trials
    from optlang.space.space import Space

    if json + dot + mermaid + measure > 1:
        raise usage("--json, --dot, --mermaid and --measure exclude each other", "ask once for each")
    study, written = plan_of(file, set_)
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
    sys.stdout.writelines(f"{line}\n" for line in _refused(study, file, db))
    past = _known(study, db) if not measure else _measured(study, written, file, db, home)
    if past is None and measure:
        sys.stderr.write("interrupted: how long a run takes was not measured\n")
        return INTERRUPTED
    lines = _how_long(space, past, [rung.recipe for rung in rungs], searched(study, size, ladder))
    sys.stdout.writelines(f"{line}\n" for line in ("", *lines))
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


def _known(study: Plan, db: Path) -> PastRun | None:
    """What trials of this model and data took, as far as the database knows."""
    from optlang.run.how_long import past_run

    return past_run(study, db)


def _measured(study: Plan, written: str, file: Path, db: Path, home: Path | None) -> PastRun | None:
    """What trials of this study take, by some that are tried now; None where a signal stops that."""
    from optlang.cli.watcher import watcher_of
    from optlang.measure import signals
    from optlang.run import machine
    from optlang.run.calibrate import calibrate
    from optlang.run.stop import InterruptedRun

    sys.stdout.flush()
    with signals.raised():
        watcher = watcher_of(study, None)
        try:
            return calibrate(study, written, file, machine.home_of(db, home), watcher)
        except InterruptedRun:
            return None
        finally:
            watcher.close()


DRAWN = 100
"""Points that are drawn to say how long a searched trial takes while too few have run."""


def _how_long(space: Space, past: PastRun | None, ladder: Sequence[Recipe], most: int | None) -> list[str]:
    """How long a run will take, as far as it is known what its trials take."""
    from optlang.run.how_long import UNKNOWN, could_be_drawn, said

    if past is None:
        return [UNKNOWN]
    return said(space.plan, past, ladder, most, could_be_drawn(space, DRAWN))


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
