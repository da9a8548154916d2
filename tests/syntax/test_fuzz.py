"""Whatever a file holds, it is answered with diagnostics whose places lie in it; a right one can be laid out.

`OPTLANG_FUZZ=20000` tries so many inputs of each kind.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optlang import resources
from optlang.analysis.load import load
from optlang.diagnostics.render import render
from optlang.syntax.format import format_text
from optlang.syntax.parse import keywords, parse_bytes

ROOT = Path(__file__).parents[2]
WRITTEN = [
    path.read_bytes().decode("utf-8", "replace")
    for path in sorted([
        *resources.stdlib().glob("*.opt"), *(ROOT / "studies").glob("*.opt"), *(ROOT / "tests/fixtures").rglob("*.opt")
    ])
    if path.stat().st_size < 20_000
]
# One tried way in which tokens fall apart: words, numbers, texts, single signs and white space.
_PIECE = re.compile(r'"[^"\n]*"|\w+|\s+|.', re.DOTALL)
TRIED = int(os.environ.get("OPTLANG_FUZZ", "0"))


def tried(count: int) -> settings:
    return settings(
        max_examples=TRIED or count, deadline=None, derandomize=not TRIED, database=None,
        suppress_health_check=list(HealthCheck),
    )


def answered(data: bytes) -> None:
    """Load and render what a file holds, in every form; lay it out where its syntax is right."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzz.opt"
        path.write_bytes(data)
        found = load(path)
        for item in found.diagnostics:
            for label in (item.primary, *item.labels):
                assert 0 <= label.span.start <= label.span.end <= len(found.texts[label.span.file]), item
        for style in ("full", "concise", "json", "github"):
            render(found.diagnostics, found.texts, style)
    parsed = parse_bytes("fuzz", data)
    if parsed.file is not None and not parsed.diagnostics.failed:
        # Raises where the trees differ.
        once = format_text(parsed)
        assert format_text(parse_bytes("fuzz", once.encode())) == once


@tried(60)
@given(st.binary(max_size=200))
def test_any_bytes_are_answered(data: bytes) -> None:
    answered(data)


words = st.sampled_from([
    *sorted(keywords()), "none", "latency", "magnitude", "static", "eager", "zoo.digits_cnn", "x", "y", "sparsity",
    "0", "1", "30%", "1e400", "2ms",
    "4GiB", '"text"', *"{}()[]=,;:.+-*/<>#", "..", "==", "!=", "<=", "\n", "\n", "\n  ",
])


@tried(60)
@given(st.lists(words, max_size=60))
def test_any_words_are_answered(found: list[str]) -> None:
    answered(("optlang 1\n" + " ".join(found)).encode())


@tried(60)
@given(st.lists(words, max_size=40))
def test_any_words_in_a_study_are_answered(found: list[str]) -> None:
    head = "model net = zoo.digits_cnn(width = 8)\ndata seen = zoo.digits(seed = 0)\n"
    answered(f"optlang 1\nstudy s {{\n{head}{' '.join(found)}\n}}\n".encode())


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A shipped file with pieces and lines left out, doubled, swapped or replaced, or two files spliced."""
    text = draw(st.sampled_from(WRITTEN))
    lines = draw(st.booleans())
    pieces = text.splitlines(keepends=True) if lines else _PIECE.findall(text)
    for _ in range(draw(st.integers(1, 4))):
        if not pieces:
            break
        at = draw(st.integers(0, len(pieces) - 1))
        match draw(st.sampled_from(["delete", "double", "swap", "replace", "splice"])):
            case "delete":
                del pieces[at : at + draw(st.integers(1, 3))]
            case "double":
                pieces.insert(at, pieces[at])
            case "swap":
                other = draw(st.integers(0, len(pieces) - 1))
                pieces[at], pieces[other] = pieces[other], pieces[at]
            case "replace":
                pieces[at] = draw(words)
            case "splice":
                other_text = draw(st.sampled_from(WRITTEN))
                pieces[at:] = [other_text[draw(st.integers(0, len(other_text))) :]]
    return "".join(pieces)


@tried(80)
@given(damaged())
def test_any_damage_is_answered(text: str) -> None:
    answered(text.encode())
