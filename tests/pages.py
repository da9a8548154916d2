"""What the docs show: their fenced blocks, and what a fragment of the language needs around it to be a file.

A block ```` ```opt ```` is right as it stands. `study`, `steps`, `goals` behind it say which part of a study it is;
`module` that it is a file without a study; `--set NAME=VALUE` what the command line sets. `wrong CODE` says that it has
exactly this problem; the block ```` ```text ```` that follows holds what is said of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from optlang.analysis.load import Loaded, load
from optlang.diagnostics.model import Diagnostic

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
WRITTEN = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "editors/vscode/README.md")),
    *(DOCS / name for name in ("install.md", "ten_minutes.md", "guide.md", "your_model.md", "metrics.md")),
    *(DOCS / name for name in ("language.md", "questions.md", "targets.md", "coverage.md", "editors.md")),
    DOCS / "several_machines.md",
    *sorted((DOCS / "language").glob("*.md")), *sorted((DOCS / "techniques").glob("*.md")),
]

BLOCK = re.compile(r"(?:<!-- example: (?P<file>\S+) -->\n)?^```(?P<kind>[^\n]*)\n(?P<text>.*?)^```$", re.M | re.S)

_AROUND = """\
optlang 1
import python "mine.py" as mine
{imports}study fragment {{
  {model}
  {data}
  {target}
  {steps}
  {goals}
  {text}
}}
"""
_IMPORTED = {"tm": "torchmetrics", "vision": "vision.py", "text": "text.py"}
_FOR_GOALS = """steps {
    repeat rounds in 0 .. 3 {
      prune   = channels { ratio in 10% .. 50% step 10% }
      recover = finetune { lr in 1e-4 .. 1e-2 log }
    }
    precision in { none; dynamic; static { samples in [64, 256] } }
  }"""


@dataclass(frozen=True, slots=True)
class Example:
    """One block of the language: the words behind its kind, its text, and where it stands."""

    page: Path
    words: tuple[str, ...]
    text: str
    start: int
    end: int
    name: str | None = None

    @property
    def wrong(self) -> str | None:
        """The code of the problem that it shows."""
        return self.words[self.words.index("wrong") + 1] if "wrong" in self.words else None

    @property
    def sets(self) -> dict[str, str]:
        """What the command line sets."""
        return dict(word.split("=", 1) for word in self.words if "=" in word)

    def __str__(self) -> str:
        line = self.page.read_text()[: self.start].count("\n") + 1
        return f"{self.page.relative_to(ROOT)}:{line}"


def blocks(page: Path) -> Iterator[re.Match[str]]:
    """The fenced blocks of a page."""
    return BLOCK.finditer(page.read_text())


def examples(pages: list[Path] | None = None) -> list[Example]:
    """What the pages show of the language."""
    found = []
    for page in WRITTEN if pages is None else pages:
        for block in blocks(page):
            kind, *words = block["kind"].split() or [""]
            if kind == "opt":
                found.append(Example(page, tuple(words), block["text"], block.start(), block.end(), block["file"]))
    return found


def files() -> dict[str, str]:
    """The files that the docs show whole, by name."""
    found = (block for page in WRITTEN for block in blocks(page))
    return {block["file"]: block["text"] for block in found if block["file"]}


def whole(example: Example) -> str:
    """A file with the example in it."""
    part, text = next(iter(example.words), ""), example.text
    if part not in ("study", "steps", "goals"):
        return text
    if part == "steps":
        text = f"steps {{\n{text}\n}}"
    has = {name: re.search(rf"^\s*{name}\b", text, re.M) is not None for name in ("model", "data", "target", "steps")}
    goal = re.search(r"^\s*(minimize|maximize)\b", text, re.M)
    return _AROUND.format(
        imports="".join(
            f'import python "{file}" as {alias}\n' for alias, file in _IMPORTED.items()
            if re.search(rf"\b{alias}\.\w+\(", text)
        ),
        model="" if has["model"] else "model net = mine.net(width = 24)",
        data="" if has["data"] else "data seen = mine.samples(seed = 0)",
        target="" if has["target"] else "target here { runtime in { eager; onnxruntime; openvino } }",
        steps="" if has["steps"] else _FOR_GOALS if part == "goals" else "steps { maybe finetune }",
        goals="" if goal else "minimize latency, size", text=text,
    )


def loaded(example: Example, folder: Path) -> Loaded:
    """The example as `check` reads it, in a folder with the files that the docs show."""
    for name, text in files().items():
        (folder / name).write_text(text)
    for name in re.findall(r'weights\s*=\s*"([^"]+)"', example.text):
        (folder / name).write_bytes(b"")
    path = folder / (example.name or "shown.opt")
    path.write_text(whole(example))
    return load(path, example.sets)


def said(problems: tuple[Diagnostic, ...]) -> str:
    """What is said of a file, without the places: code and message, what stands under the carets, and the help."""
    rows = []
    for item in problems:
        rows.append(f"{item.severity}[{item.code}]: {item.message}")
        rows += [f"  ^ {label.text}" for label in (item.primary, *item.labels) if label.text]
        rows += [f"  = help: {item.help}"] if item.help else []
    return "\n".join(rows) + "\n"
