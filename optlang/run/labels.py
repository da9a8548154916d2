"""Which steps of a study learn from labels: before anything is trained it is known whether the data have any."""

from __future__ import annotations

from collections.abc import Iterator

from optlang.plan.model import Apply, Fixed, Plan, applies

DISTILL = "`distill { width = 100% }` learns from the baseline's answers, and needs no labels"
QAT = "`qat { distill = 100% }` learns from the baseline's answers, and needs no labels"


def learning(plan: Plan) -> dict[str, str]:
    """The steps that learn from labels, in words, and what to write where there are none."""
    return dict(_learning(plan))


def _learning(plan: Plan) -> Iterator[tuple[str, str]]:
    for use in applies(plan.baseline):
        if "labels" in plan.technique(use.technique).needs:
            yield f"`{_word(use)}` of the baseline", "train the model first, and name its `weights`"
    for use in applies(plan.steps):
        if "labels" in plan.technique(use.technique).needs:
            yield f"`{_word(use)}`", DISTILL
        share = use.settings.get("distill")
        if use.technique == "quant.qat" and isinstance(share, Fixed) and share.value == 0:
            yield "`qat` with `distill = 0%`", QAT


def _word(use: Apply) -> str:
    return use.technique.rpartition(".")[2]
