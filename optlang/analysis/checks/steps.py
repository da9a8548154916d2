"""E5: steps and runtimes that can never be taken, or never win."""

from __future__ import annotations

from optlang.analysis.conditions import value_of
from optlang.analysis.lower.study import ReadStudy
from optlang.diagnostics.model import Label
from optlang.plan.domains import contains
from optlang.plan.expressions import Const, KnobRef, outcomes
from optlang.plan.model import Fixed, Models, Setting, applies
from optlang.space.combinations import Index
from optlang.space.compatibility import label_of

INDUCTOR = "runtime.inductor"

_NEVER = {
    "E501": "needs a GPU, and the target has none",
    "E502": "stands where it can never be",
    "E503": "is excluded by a step that is always applied with it",
    "E504": "is never available here",
    "E506": "comes after the model has its final form",
    "E508": "never gets a model that it can take",
}
_TURNED = {
    **_NEVER,
    "E506": "gives the model its final form before another step",
    "E508": "leaves a form that the step after it cannot take",
}
_WAY_OUT = {
    "E501": "take it away, or measure on a target with a GPU (`device = cuda`)",
    "E502": "change the order of the two",
    "E503": "make them two branches of a choice: `NAME in { …; … }`",
    "E504": "choose among runtimes that can run it, or take it away",
    "E506": "the step that gives the model its final form comes last",
    "E508": "change the order of the two, or take one of them away",
}


def can_be_taken(study: ReadStudy) -> None:
    """E501, E502, E503, E504, E506, E508: every step and every runtime can be taken in some combination."""
    if study.feasible is None:
        return
    for conflict in study.feasible.never:
        span = study.spans[conflict.path]
        other = study.spans.get(conflict.other) if conflict.other is not None else None
        study.diagnostics.error(
            conflict.code, f"`{label_of(conflict.path)}` {(_TURNED if conflict.turned else _NEVER)[conflict.code]}",
            span, conflict.reason,
            labels=(Label(other, f"`{label_of(conflict.other or '')}`"),)
            if other is not None and other != span
            else (),
            help=conflict.way_out or _WAY_OUT[conflict.code],
        )


def can_win(study: ReadStudy) -> None:
    """W509: float16 on a CPU is correct, and never a win.

    A technique makes it where its traits say so, or where a setting of it is, or may be, the word `float16`.
    """
    uses = [use for target in study.targets for use in target.runtimes]
    # What another machine's processor is good at is not known here.
    if any(target.device != "cpu" or target.remote is not None for target in study.targets):
        return
    for step in applies(study.steps):
        # What a runtime makes of it itself is for that runtime's hardware, which may be another than this.
        if any(study.facts.runtimes[use.runtime].carries_out(step.technique) for use in uses):
            continue
        traits = study.facts.techniques[step.technique].traits
        if "float16" in traits or any(_float16(setting, study.index) for setting in step.settings.values()):
            study.diagnostics.warn(
                "W509", f"`{label_of(step.path)}` wins no time here", study.spans[step.path],
                "float16 is slower than float32 on a CPU, and saves bytes only",
                help="use int8 there, or another target; bfloat16 wins only on processors that have it",
            )


def can_replay(study: ReadStudy) -> None:
    """W511: CUDA graphs are what `mode = reduce_overhead` of torch.compile is for, and a processor has none."""
    for target in study.targets:
        if target.device == "cuda":
            continue
        for use in target.runtimes:
            setting = use.settings.get("mode")
            if use.runtime == INDUCTOR and setting is not None and _maybe(setting, study.index, "reduce_overhead"):
                study.diagnostics.warn(
                    "W511", f"`reduce_overhead` of `{label_of(use.path)}` changes nothing on {target.name}",
                    study.spans[use.path], "CUDA graphs are what it is for, and the target is no GPU",
                    help="set mode = default, which compiles the same there, or measure on `device = cuda`",
                )


def _float16(setting: Setting, index: Index) -> bool:
    """Whether the setting may be float16."""
    return _maybe(setting, index, "float16")


def _maybe(setting: Setting, index: Index, word: str) -> bool:
    """Whether the setting may be this word."""
    if isinstance(setting, Fixed):
        return setting.value == word
    if isinstance(setting, Models):
        return False
    for item in outcomes(value_of(setting)):
        if isinstance(item, Const) and item.value == word:
            return True
        if isinstance(item, KnobRef) and item.path in index.by_path and contains(index.by_path[item.path].domain, word):
            return True
    return False
