"""The docs: what they show is right, what they link to is there, and what is made from the code is up to date."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from optlang.cli import app
from optlang.plan.load import load
from optlang.render import render
from optlang.report.reference import PAGES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
WRITTEN = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "editors/vscode/README.md")),
    *(DOCS / name for name in ("guide.md", "language.md", "questions.md", "targets.md", "editors.md")),
    *sorted((DOCS / "techniques").glob("*.md")),
]

BLOCK = re.compile(r"(?:<!-- example: (?P<file>\S+) -->\n)?^```(?P<kind>[^\n]*)\n(?P<text>.*?)^```$", re.M | re.S)

# What a fragment needs around it to be a study; `goals`, `steps` and `study` say which part it is.
AROUND = """\
optlang 1
import python "mine.py" as mine
study fragment {{
  {model}
  data seen = mine.samples(seed = 0)
  {target}
  {steps}
  {goals}
  {text}
}}
"""


def blocks(kind: str) -> Iterator[tuple[str, str, re.Match[str]]]:
    """Fenced blocks of a kind: the page, the kind's further words, the block."""
    for page in WRITTEN:
        for found in BLOCK.finditer(page.read_text()):
            words = found["kind"].split()
            if words[:1] == [kind]:
                yield page.name, " ".join(words[1:]), found


def examples() -> dict[str, str]:
    """The files that the docs show whole, by name."""
    found = (block for page in WRITTEN for block in BLOCK.finditer(page.read_text()))
    return {block["file"]: block["text"] for block in found if block["file"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that the docs show."""
    for name, text in examples().items():
        (tmp_path / name).write_text(text)
    return tmp_path


def whole(words: str, text: str) -> str:
    """A fragment with what is missing around it."""
    if words.split()[:1] == ["steps"]:
        text = f"steps {{\n{text}\n}}"
    has = {name: re.search(rf"^\s*{name}\b", text, re.M) is not None for name in ("model", "target", "steps")}
    goal = re.search(r"^\s*(minimize|maximize)\b", text, re.M)
    return AROUND.format(
        model="" if has["model"] else "model net = mine.net(width = 24)",
        target="" if has["target"] else "target here { runtime in { eager; onnxruntime; openvino } }",
        steps="" if has["steps"] else FOR_GOALS if words.startswith("goals") else "steps { maybe finetune }",
        goals="" if goal else "minimize latency, size", text=text,
    )


FOR_GOALS = """steps {
    repeat rounds in 0 .. 3 {
      prune   = channels { ratio in 10% .. 50% step 10% }
      recover = finetune { lr in 1e-4 .. 1e-2 log }
    }
    precision in { none; dynamic; static { samples in [64, 256] } }
  }"""


@pytest.mark.parametrize(
    ("page", "words", "text"), [(page, words, found["text"]) for page, words, found in blocks("opt")],
    ids=lambda value: value if len(value) < 20 else "",
)
def test_what_is_shown_of_the_language_is_right(page: str, words: str, text: str, folder: Path) -> None:
    if "needs-weights" in words:
        (folder / "mine.safetensors").write_bytes(b"")
    path = folder / "shown.opt"
    path.write_text(text if words in ("", "module") else whole(words, text))
    loaded = load(path)
    assert not loaded.failed, f"{page}:\n{render(loaded.diagnostics, loaded.texts)}"


def test_what_is_shown_of_python_compiles() -> None:
    for page, _, found in blocks("python"):
        compile(found["text"], page, "exec")


def test_commands_that_are_named_exist() -> None:
    known = typer.main.get_command(app)
    commands = getattr(known, "commands")  # noqa: B009 - typer's copy of click does not say it to a type checker
    for page in WRITTEN:
        for line in re.findall(r"^optlang (.+)$|`optlang ([^`]+)`", page.read_text(), re.M):
            words = (line[0] or line[1]).split("  ")[0].split()
            name = words[0].rstrip(",")
            assert name in commands or name in ("--help", "1"), f"{page.name}: {line}"
            options = {option for item in commands[name].params for option in item.opts} if name in commands else set()
            text = re.sub(r'"[^"]*"', "", line[0] or line[1])
            for option in re.findall(r"(?<!\S)--[a-z]+", text.split("#")[0]):
                assert option in options | {"--help"}, f"{page.name}: optlang {name} has no {option}"


def test_links_lead_somewhere() -> None:
    for page in [*WRITTEN, *(DOCS / name for name in PAGES), ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\((?!https?:)([^)#]*)(?:#[^)]*)?\)", page.read_text()):
            assert not target or (page.parent / target).exists(), f"{page.name} → {target}"


@pytest.mark.parametrize("name", PAGES)
def test_generated_pages_are_fresh(name: str) -> None:
    assert (DOCS / name).read_text() == PAGES[name](), "run: python -m optlang.report.reference docs"


@pytest.mark.slow
@pytest.mark.parametrize("study", ["mine.opt", "own.opt"])
def test_the_guides_own_studies_run(study: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "optlang", "run", study, "--trials", "3"], cwd=folder, capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "Next: optlang export" in done.stdout
    assert "failed" not in done.stdout
