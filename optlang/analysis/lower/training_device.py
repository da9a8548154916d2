"""`device` of `search { … }`: what models are trained on. Whether it is there is asked by the worker that trains."""

from __future__ import annotations

import re
from dataclasses import replace

from optlang.analysis.modules.names import listed
from optlang.diagnostics.model import Diagnostics, Fix, Span
from optlang.plan.model import Param, SetDomain
from optlang.syntax import tree

NAMES = ("auto", "cpu", "cuda", "mps")
PARAM = Param(
    name="device", dimension="name", domain=SetDomain(values=NAMES), default="auto",
    help='where models are trained: `auto`: a GPU where torch has one, else the processor; "cuda:1": the second GPU',
)
_OTHERS = {
    "gpu": "an NVIDIA GPU is `device = cuda`, a Mac's `device = mps`; `auto` takes what is there",
    "nvidia": "an NVIDIA GPU is `device = cuda`",
    **dict.fromkeys(("rocm", "hip", "amd"), "torch calls AMD's GPUs `cuda` too: `device = cuda`"),
    "metal": "a Mac's GPU is `device = mps`",
    **dict.fromkeys(("tpu", "xpu", "npu"), "models are trained on `cpu`, `cuda` or `mps`"),
}
"""Words that are no device here, with what to do: they are not taken for misspelled ones."""

_NUMBERED = re.compile(r"cuda:(0|[1-9][0-9]?)")


def read(diagnostics: Diagnostics, statement: tree.Statement) -> tuple[tree.Statement, str | None]:
    """The setting as its declaration has it, and the GPU that it names by a number ("cuda:1"), where it does.

    A value that is no device is reported, and replaced by the default.
    """
    if not isinstance(statement, tree.Fix):
        return statement, None
    match statement.value:
        case tree.String(value=text) if _NUMBERED.fullmatch(text):
            return _with(statement, "cuda"), text
        case tree.String(span=span, value=text):
            _report_text(diagnostics, span, text)
            return _with(statement, "auto"), None
        case tree.Path(span=span, text=text) if text.lower() in _OTHERS:
            diagnostics.error(
                "E406", f"`device` cannot be `{text}`", span, "not a device", help=_OTHERS[text.lower()]
            )
            return _with(statement, "auto"), None
    return statement, None


def _report_text(diagnostics: Diagnostics, span: Span, text: str) -> None:
    if text in NAMES:
        advice, fix = f"write `device = {text}`", Fix(span, text)
    else:
        advice, fix = _OTHERS.get(text.lower(), f'devices are {listed(NAMES)}, and one of several GPUs "cuda:1"'), None
    diagnostics.error("E406", f'`device` cannot be "{text}"', span, "not a device", help=advice, fix=fix)


def _with(statement: tree.Fix, word: str) -> tree.Fix:
    span = statement.value.span
    return replace(statement, value=tree.Path(span, (tree.Name(span, word),)))
