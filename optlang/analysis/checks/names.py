"""E2: what has a name is used."""

from __future__ import annotations

from optlang.analysis.lower.study import ReadStudy
from optlang.analysis.modules.names import Scope
from optlang.diagnostics.model import Diagnostics


def names_are_used(study: ReadStudy) -> None:
    """W208: every `let` and `input` of the study is used."""
    names = study.knobs.names
    if study.partial:
        return
    used = names.scope.table.referred()
    for name, item in names.symbols.names.items():
        if item.span not in used and not _excused(names.scope, name):
            study.diagnostics.warn(
                "W208", f"the {item.kind} `{name}` is never used", item.span, "never used", help="take it away"
            )


def imports_are_used(scope: Scope, diagnostics: Diagnostics) -> None:
    """W208: what a file imports is used."""
    used = scope.table.referred()
    for name, item in scope.imports.items():
        if item.span not in used and not _excused(scope, name):
            span = item.whole or item.span
            diagnostics.warn("W208", f"`{name}` is imported and never used", span, help="take it away")


def _excused(scope: Scope, name: str) -> bool:
    """Whether something else was reported of the name, or of what was probably to be it."""
    return name in scope.meant or name in scope.broken
