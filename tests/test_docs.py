"""The docs: what they show is right, what they link to is there, and what is made from the code is up to date."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from lark import Token, Tree

from optlang.cli.app import app
from optlang.diagnostics.render import render
from optlang.plan.units import UNITS
from optlang.syntax import build, parse
from optlang.syntax.source import Source
from tests.pages import DOCS, ROOT, WRITTEN, Example, blocks, examples, files, loaded, said, whole
from tools.reference import PAGES

EXAMPLES = examples()
LANGUAGE = [item for item in EXAMPLES if item.page.parent.name == "language" and item.wrong is None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that the docs show."""
    for name, text in files().items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("example", [item for item in EXAMPLES if item.wrong is None], ids=str)
def test_what_is_shown_of_the_language_is_right(example: Example, tmp_path: Path) -> None:
    found = loaded(example, tmp_path)
    problems = found.diagnostics if example in LANGUAGE else [item for item in found.diagnostics if found.failed]
    assert not problems, f"{example}:\n{render(found.diagnostics, found.texts)}"


@pytest.mark.parametrize("example", [item for item in EXAMPLES if item.wrong is not None], ids=str)
def test_what_is_shown_as_wrong_is_answered_as_shown(example: Example, tmp_path: Path) -> None:
    """OPTLANG_WRITE_FIXTURES=1 writes the answers into the pages: read what changed before you keep it."""
    found = loaded(example, tmp_path)
    page = example.page.read_text()
    assert {item.code for item in found.diagnostics} == {example.wrong}, render(found.diagnostics, found.texts)
    answer = f"```text\n{said(found.diagnostics)}```\n".replace(f"{tmp_path.as_posix()}/", "")
    if os.environ.get("OPTLANG_WRITE_FIXTURES"):
        # Pages grow while this goes on: the block is found again by what it says.
        block = f"```opt {' '.join(example.words)}\n{example.text}```\n"
        before, _, after = page.partition(block)
        page = before + block + re.sub(r"\A```text\n.*?^```\n", lambda _: answer, after, count=1, flags=re.M | re.S)
        example.page.write_text(page)
    else:
        assert page[example.end :].lstrip("\n").startswith(answer), f"{example}:\n{answer}"


def test_every_rule_and_word_of_the_grammar_stands_in_a_right_example(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    words: set[str] = set()
    actions = build.Builder.actions

    def note(values: object) -> None:
        if isinstance(values, list):
            for value in values:
                note(value)
        elif isinstance(values, Tree):
            note(values.children)
        elif isinstance(values, Token) and values.type not in ("NAME", "STRING"):
            words.add(str(values))

    def recorded(builder: build.Builder) -> SimpleNamespace:
        def noting(name: str, act: Callable[[list[object]], object]) -> Callable[[list[object]], object]:
            def acted(values: list[object]) -> object:
                seen.add(name)
                note(values)
                return act(values)
            return acted

        return SimpleNamespace(**{name: noting(name, act) for name, act in vars(actions(builder)).items()})

    monkeypatch.setattr(build.Builder, "actions", recorded)
    # What only the library writes (`measured`) stands there.
    for text in (*map(whole, LANGUAGE), (DOCS.parent / "stdlib" / "metrics.opt").read_text()):
        assert not parse.parse(Source("t", text)).diagnostics.failed
    assert not {name for name in vars(build.Builder) if name[0] != "_" and name != "actions"} - seen
    assert not {*parse.keywords(), *"+-*/<>([", "==", "!=", "<=", ">=", ".."} - words
    pages = "".join(page.read_text() for page in (DOCS / "language").glob("*.md"))
    assert not [unit for unit in UNITS if not re.search(rf"[` ]{unit}[` ]", pages)]


def test_what_is_shown_of_python_compiles() -> None:
    for page in WRITTEN:
        for found in blocks(page):
            if found["kind"].split()[:1] == ["python"]:
                compile(found["text"], page.name, "exec")


def test_commands_that_are_named_exist() -> None:
    known = typer.main.get_command(app)
    commands = getattr(known, "commands")  # noqa: B009 - typer's copy of click does not say it to a type checker
    for page in WRITTEN:
        for line in re.findall(r"^optlang (.+)$|`optlang ([^`]+)`", page.read_text(), re.M):
            words = (line[0] or line[1]).split("  ")[0].split()
            name = words[0].rstrip(",")
            assert name in commands or name in ("--help", "--version", "1"), f"{page.name}: {line}"
            called = commands.get(name)
            if inner := getattr(called, "commands", {}):
                assert words[1] in inner, f"{page.name}: {line}"
                called = inner[words[1]]
            params = [] if called is None else called.params
            options = {option for item in params for option in (*item.opts, *item.secondary_opts)}
            text = re.sub(r'"[^"]*"', "", line[0] or line[1])
            for option in re.findall(r"(?<!\S)--[a-z]+(?:-[a-z]+)*", text.split("#")[0]):
                assert option in options | {"--help", name}, f"{page.name}: optlang {name} has no {option}"


def test_links_lead_somewhere() -> None:
    for page in [*WRITTEN, *(DOCS / name for name in PAGES), ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\((?!https?:)([^)#]*)(?:#[^)]*)?\)", page.read_text()):
            assert not target or (page.parent / target).exists(), f"{page.name} → {target}"


@pytest.mark.parametrize("name", PAGES)
def test_generated_pages_are_fresh(name: str) -> None:
    assert (DOCS / name).read_text() == PAGES[name](), "run: python -m tools.reference docs"


@pytest.mark.slow
@pytest.mark.parametrize("study", ["mine.opt", "own.opt"])
def test_the_guides_own_studies_run(study: str, folder: Path) -> None:
    # Their own but for the effort: measuring the front as it should be takes half a minute.
    few = "measure { rounds = 2; front_rounds = 2; front_processes = 1; round_seconds = 2ms; round_calls = 5 }"
    text = (folder / study).read_text()
    assert "  search {" in text
    (folder / study).write_text(text.replace("  search {", f"  {few}\n  search {{"))
    done = subprocess.run(
        [sys.executable, "-m", "optlang", "run", study, "--trials", "3"], cwd=folder, capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert " -m optlang export" in done.stdout or "Next: optlang export" in done.stdout
    assert "failed" not in done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("torchvision")
def test_a_classifier_of_transformers_runs(folder: Path) -> None:
    pytest.importorskip("transformers")
    few = "measure { rounds = 2; front_rounds = 2; front_processes = 1; round_seconds = 2ms; round_calls = 5 }"
    text = (folder / "text.opt").read_text().replace("  search {", f"  {few}\n  search {{")
    assert "; dynamic; weight_only" in text
    (folder / "text.opt").write_text(text.replace("; dynamic; weight_only", ""))
    done = subprocess.run(
        [sys.executable, "-m", "optlang", "run", "text.opt"], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])},
    )
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stdout
    assert re.search(r"static · onnxruntime .* (9\d\.\d|100\.0) %", done.stdout), done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("torchvision")
@pytest.mark.filterwarnings("ignore")   # of what timm and Transformers import
def test_models_of_libraries_take_their_own_checkpoints(folder: Path) -> None:
    import torch

    from optlang.interfaces import Factory
    from optlang.workload.data.tensors import forward_names
    from optlang.workload.model.call import call
    from optlang.workload.model.make import initial, make

    pytest.importorskip("timm")
    pytest.importorskip("transformers")
    images = torch.rand(2, 3, 32, 32)
    for function in ("from_torchvision", "from_timm", "from_transformers"):
        trained = make(Factory(f"vision.py:{function}", {"classes": 12}), folder)
        with torch.no_grad():
            for item in trained.parameters():
                item.mul_(0.9)
        inputs = {forward_names(trained)[0][0]: images}
        torch.save({"state_dict": trained.state_dict(), "epoch": 3}, folder / "last.ckpt")
        again = make(Factory(f"vision.py:{function}", {"classes": 12}, weights="last.ckpt"), folder)
        with torch.no_grad():
            wanted, found = (next(iter(call(item, inputs).values())) for item in (trained, again))
        assert wanted.shape == (2, 12)
        assert torch.equal(wanted, found), function
        factory = Factory(f"vision.py:{function}", {}, weights="last.ckpt", weights_strict=False)
        notes = initial(factory, folder, inputs).notes
        assert len(notes["weights.initial"]) == 2, notes


@pytest.mark.slow
def test_ten_minutes_end_with_an_artifact_that_answers_without_torch(folder: Path) -> None:
    def done(*arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        ran = subprocess.run(
            [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False, env=environment
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    done("train.py")
    # INT8 alone: the study as it stands trains for a minute.
    study = (folder / "shrink.opt").read_text()
    (folder / "shrink.opt").write_text(re.sub(r"    maybe thin = \{.*?\n    \}\n", "", study, flags=re.S))
    done("-m", "optlang", "run", "shrink.opt", "--ladder")
    shown = done("-m", "optlang", "sql", "SELECT max(trial) FROM results", "--format", "csv")
    done("-m", "optlang", "export", "shrink", shown.split()[-1], "-o", "small")
    blocked = "import sys; sys.path.insert(0, ''); sys.modules['torch'] = sys.modules['optlang'] = None\n"
    program = (folder / "answer.py").read_text().partition("assert ")[0]
    answers = [line.split() for line in done("-I", "-c", blocked + program).splitlines()]
    assert len(answers) >= 8
    assert all(found == expected for found, _, expected in answers)
