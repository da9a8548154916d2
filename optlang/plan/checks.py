"""What must hold of a whole study: small independent checks, each of which adds what it finds to the diagnostics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from optlang.diagnostics import Diagnostics, Label
from optlang.plan.feasibility import Feasibility
from optlang.plan.inputs import Inputs
from optlang.plan.knobs import Knobs
from optlang.plan.model import Knob, Objective, Rule, Search, Step, Target
from optlang.plan.names import duplicate
from optlang.plan.steps import Steps
from optlang.plan.targets import Targets
from optlang.syntax import tree


@dataclass(slots=True, eq=False)
class Draft:
    """A study that was read, with where its parts stand. `complete` says that reading it found no error."""

    study: tree.Study
    knobs: Knobs
    steps: Steps
    targets: Targets
    built_knobs: tuple[Knob, ...]
    built_steps: tuple[Step, ...]
    built_targets: tuple[Target, ...]
    forbids: list[tuple[tree.Rule, Rule]]
    objectives: list[tuple[tree.Path, Objective]]
    search: Search | None
    inputs: Inputs
    broken: bool
    complete: bool
    feasible: Feasibility | None = field(default=None)

    @property
    def diagnostics(self) -> Diagnostics:
        """Where problems go."""
        return self.knobs.diagnostics


def has_objective(draft: Draft) -> None:
    """E601: something must be improved."""
    if not draft.broken and not any(isinstance(item, tree.Goal) for item in draft.study.members):
        draft.diagnostics.error(
            "E601", "the study has no objective", draft.study.name.span, "in this study",
            help="say what is to become better: `minimize latency, size` or `maximize accuracy`",
        )


def goals_agree(draft: Draft) -> None:
    """E603 and E202: no metric in two directions, against its own, or twice."""
    first: dict[str, tuple[tree.Path, Objective]] = {}
    for path, objective in draft.objectives:
        metric = objective.metric.metric
        better = draft.knobs.resolver.metrics[metric].direction
        if metric in first and first[metric][1].direction != objective.direction:
            draft.diagnostics.error(
                "E603", f"`{path.text}` cannot be both minimized and maximized", path.span, f"{objective.direction} here",
                labels=(Label(first[metric][0].span, f"{first[metric][1].direction} here"),), help="take one of them away",
            )
        elif metric in first:
            duplicate(draft.diagnostics, path.text, path.span, first[metric][0].span, "take one of them away")
        elif better != objective.direction:
            draft.diagnostics.error(
                "E603", f"`{path.text}` is better when it is {'more' if better == 'maximize' else 'less'}", path.span,
                f"{objective.direction} here", help=f"write `{better} {path.text}`",
            )
        first.setdefault(metric, (path, objective))


def few_objectives(draft: Draft) -> None:
    """E605: a sampler takes six objectives at most."""
    if len(draft.objectives) > 6:
        draft.diagnostics.error(
            "E605", f"{len(draft.objectives)} objectives, and a sampler takes six at most", draft.objectives[6][0].span,
            "the seventh", help="turn some of them into requirements: `require size <= 4MB`",
        )


def all_used(draft: Draft) -> None:
    """W208: every `let` and `input` of the study is used."""
    resolver = draft.knobs.resolver
    if draft.broken:
        return
    for item in draft.study.members:
        if isinstance(item, tree.Let | tree.Input) and item.name.text not in resolver.used | resolver.scope.unknown:
            word = "let" if isinstance(item, tree.Let) else "input"
            draft.diagnostics.warn(
                "W208", f"the {word} `{item.name.text}` is never used", item.name.span, "never used", help="take it away"
            )


CHECKS: tuple[Callable[[Draft], None], ...] = (has_objective, goals_agree, few_objectives, all_used)
