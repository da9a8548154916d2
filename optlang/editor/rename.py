"""Another name for a label, wherever the file names it. The study must then mean what it did, or nothing is changed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from optlang.analysis.definitions import Definition, DefinitionKind
from optlang.analysis.load import Loaded
from optlang.diagnostics.fixes import applied
from optlang.diagnostics.model import Fix, Span
from optlang.interfaces import OptlangError
from optlang.syntax.tokens import RESERVED

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WRITTEN = frozenset({"location", "text", "reason", "column"})
"""Fields of a plan that say how it is written, or depends on names."""

_OWN: frozenset[DefinitionKind] = frozenset(
    {"input", "let", "parameter", "setting", "step", "repeat", "target", "word"}
)
"""What the file itself gives a name to, other than declarations, imports and metrics."""

Check = Callable[[str], Loaded]


def renamable(loaded: Loaded, offset: int) -> tuple[Definition, Span] | None:
    """The name that is defined, or referred to, at an offset of the file, and the span of it there."""
    if loaded.scope is None:
        return None
    file, table = loaded.parsed.source.file, loaded.scope.table
    definition = table.defined_at(file, offset)
    if definition is not None and definition.kind in _OWN:
        return definition, definition.span
    named = table.named_at(file, offset)
    return (named[1], named[0]) if named is not None and named[1].kind in _OWN else None


def renamed(loaded: Loaded, label: Definition, name: str, check: Check) -> list[Fix]:
    """The edits that give `label` another name; `check` reads the file with a text that it might have.

    Raises OptlangError, with the reason, where the name cannot be one, or the file would then mean something else.
    """
    assert loaded.scope is not None
    file = loaded.parsed.source.file
    if not _NAME.fullmatch(name) or name in {*RESERVED, "none"}:
        raise OptlangError(f"`{name}` cannot be a name", help="a name is letters, digits and `_`, and no digit first")
    if label.fixed:
        raise OptlangError(f"`{label.name}` is a parameter: its declaration gives it its name")
    if label.span.file != file:
        raise OptlangError(f"`{label.name}` stands in {label.span.file}", help="rename it there")
    if loaded.failed:
        raise OptlangError("the file has errors, so what a name means is not known", help="fix them first")
    if name == label.name:
        return []
    edits = [Fix(span, name) for span in loaded.scope.table.spans_of(label) if span.file == file]
    if label.whole is not None:
        # A step that is called as its technique gets a label of its own.
        edits = [Fix(Span(file, label.whole.start, label.whole.start), f"{name} = "), *edits]
        edits.remove(Fix(label.span, name))
    after = check(applied(loaded.parsed.source.text, edits))
    fresh = [item for item in after.diagnostics if item.severity == "error"]
    if fresh:
        raise OptlangError(f"`{name}` would be wrong here: {fresh[0].message}", help="take another name")
    if not _same(_meaning(loaded), _meaning(after), label.name, name):
        raise OptlangError(
            f"with the name `{name}` the study would mean something else", help="take a name that nothing else has"
        )
    return edits


def _meaning(loaded: Loaded) -> Any:
    codes = sorted(item.code for item in loaded.diagnostics)
    return [codes, loaded.plan.model_dump() if loaded.plan is not None else None]


def _same(before: Any, after: Any, old: str, new: str) -> bool:
    """Whether two plans are one, but for the name."""
    if isinstance(before, dict) and isinstance(after, dict):
        pairs = zip(before.items(), after.items(), strict=False)
        # What is keyed by labels has the new name for a key.
        return len(before) == len(after) and all(
            _same(one, other, old, new) for one, other in pairs if one[0] != other[0] or one[0] not in _WRITTEN
        )
    if isinstance(before, list | tuple) and isinstance(after, list | tuple):
        return len(before) == len(after) and all(
            _same(one, other, old, new) for one, other in zip(before, after, strict=True)
        )
    if isinstance(before, str) and isinstance(after, str):
        one, other = before.split("."), after.split(".")
        return len(one) == len(other) and all(
            left == right or (left, right) == (old, new) for left, right in zip(one, other, strict=True)
        )
    return bool(before == after)
