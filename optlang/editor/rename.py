"""Another name for a label, wherever the file names it. The study must then mean what it did, or nothing is changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from optlang.analysis.load import Loaded
from optlang.analysis.modules.names import RESERVED
from optlang.diagnostics.fixes import applied
from optlang.diagnostics.model import Fix, Span
from optlang.editor.symbols import Label, Labels
from optlang.interfaces import OptlangError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WRITTEN = frozenset({"location", "text", "reason", "column"})
"""Fields of a plan that say how it is written, or follow from names."""

Check = Callable[[str], Loaded]


def label_at(labels: Sequence[Labels], file: str, offset: int) -> tuple[Label, Span] | None:
    """The label that stands, or is named, at an offset of the file, and the place of that name."""
    for part in labels:
        parameters = (knob.chain[-1] for knob in part.knobs if knob.chain[-1].fixed)
        for span, label in (*((label.span, label) for label in (*part.labels, *parameters)), *part.uses()):
            if span.file == file and span.start <= offset <= span.end:
                return label, span
    return None


def places(labels: Sequence[Labels], label: Label) -> list[Span]:
    """Where the label stands and is named, in the order of the text."""
    return sorted({label.span, *(span for part in labels for span, named in part.uses() if named.span == label.span)})


def renamed(loaded: Loaded, labels: Sequence[Labels], label: Label, name: str, check: Check) -> list[Fix]:
    """The edits that give `label` another name; `check` reads the file with a text that it might have.

    Raises OptlangError, with the reason, where the name cannot be one, or the file would then mean something else.
    """
    file = loaded.parsed.source.file
    if not _NAME.fullmatch(name) or name in RESERVED:
        raise OptlangError(f"`{name}` cannot be a name", help="a name is letters, digits and `_`, and no digit first")
    if label.fixed:
        raise OptlangError(f"`{label.text}` is a parameter: its declaration gives it its name")
    if label.span.file != file:
        raise OptlangError(f"`{label.text}` stands in {label.span.file}", help="rename it there")
    if loaded.failed:
        raise OptlangError("the file has errors, so what a name means cannot be told", help="fix them first")
    if name == label.text:
        return []
    edits = [Fix(span, name) for span in places(labels, label)]
    if label.bare is not None:
        # A step that is called as its technique gets a label of its own.
        edits = [Fix(Span(file, label.bare.start, label.bare.start), f"{name} = "), *edits]
        edits.remove(Fix(label.span, name))
    after = check(applied(loaded.parsed.source.text, edits))
    fresh = [item for item in after.diagnostics if item.severity == "error"]
    if fresh:
        raise OptlangError(f"`{name}` would be wrong here: {fresh[0].message}", help="take another name")
    if not _same(_meaning(loaded), _meaning(after), label.text, name):
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
