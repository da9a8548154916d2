"""Words that must not come back: quaint or unclear English, and old names, in code, messages and docs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
BETTER = {
    r"whoever": "the caller, the user, the deployer",
    r"anew": "again",
    r"beside(?![\"`])": "next to, with, in addition to",
    r"mend(s|ed|ing)?": "fix",
    r"heed(s|ed)?": "respect, handle",
    r"hangs? on": "depends on",
    r"at hand": "available",
    r"on the way": "intermediate",
    r"(is|are|was|were|be|been|being) told": "is reported, is passed, gets",
    r"(comes|came|come) to (?=\d|the same|more|less|nothing|no\b)": "evaluates to, is",
    r"(is|are|was|were) worth(?! (it|reading))": "scores, matters",
    r"no truth": "not a boolean",
    r"takes? its channels": "reads the channels",
    r"channels_(within|until)": "channels_to_latency, channels_to_budget",
    r"Laboratory": "TrialContext",
}
"""Words as patterns, and what to write."""

OLD = {Path("optlang/diagnostics/renamed.py"), Path("CHANGELOG.md")}
"""Files that must name old words."""


def pages() -> list[Path]:
    """Everything that users and developers read, apart from what is generated from it."""
    rooms = [
        *(ROOT / "optlang").rglob("*.py"), *(ROOT / "tools").rglob("*.py"), *(ROOT / "stdlib").glob("*.opt"),
        *(ROOT / "studies").glob("*.opt"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.py"),
        *ROOT.glob("*.md"), ROOT / "grammar" / "optlang.lark",
    ]
    return [path for path in rooms if path.relative_to(ROOT) not in OLD]


def test_words_that_were_replaced_do_not_come_back() -> None:
    wrong = re.compile("|".join(rf"(?P<w{number}>\b{word}\b)" for number, word in enumerate(BETTER)), re.IGNORECASE)
    advice = list(BETTER.values())
    found = [
        f"{path.relative_to(ROOT)}:{number}: '{match[0]}' → {advice[int(str(match.lastgroup)[1:])]}"
        for path in pages()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for match in wrong.finditer(line)
    ]
    assert not found, "\n".join(found)
