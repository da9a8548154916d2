"""The catalogue of codes: complete, in order, and its examples are what they say they are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import optlang
from optlang.analysis.load import load
from optlang.diagnostics import catalogue
from optlang.diagnostics.catalogue import ENTRIES, Entry
from optlang.diagnostics.render import render

SOURCES = Path(optlang.__file__).parent
RAISED = frozenset(
    code
    for room in ("syntax", "analysis")
    for path in (SOURCES / room).rglob("*.py")
    for code in re.findall(r'"([EW]\d{3})"', path.read_text(encoding="utf-8"))
)
INSTALLED = frozenset({"E704"})
"""Problems of installed distributions, which no text shows: tests/analysis/modules/test_plugins.py makes some."""

SHOWN = [entry for entry in ENTRIES if entry.code in RAISED - INSTALLED]
DEFAULTS = {
    "model": "model net = zoo.digits_cnn(width = 8)",
    "data": "data seen = zoo.digits()",
    "target": "target here { device = cpu; runtime in { onnxruntime; openvino } }",
    "steps": "steps { maybe static }",
    "minimize": "minimize latency",
}


def file_of(example: str) -> str:
    """The example with what a study needs besides, so that nothing else is wrong with it."""
    if re.match(r"(optlang|study|technique) ", example):
        return example if example.startswith("optlang") else f"optlang 1\n\n{example}\n"
    goals = ("minimize", "maximize", "minimise")
    rest = [
        text for word, text in DEFAULTS.items()
        if not re.search(rf"^{word}\b", example, re.MULTILINE)
        and not (word == "minimize" and any(goal in example for goal in goals))
    ]
    body = "\n".join([*rest, example]).replace("\n", "\n  ")
    return f"optlang 1\n\nstudy small {{\n  {body}\n}}\n"


def codes_of(example: str, folder: Path) -> set[str]:
    path = folder / "main.opt"
    path.write_text(file_of(example), encoding="utf-8")
    return {item.code for item in load(path, overrides_of(example)).diagnostics}


def overrides_of(example: str) -> dict[str, str]:
    """What a comment in the example says that the command line sets."""
    return dict(re.findall(r"--set (\w+)=(\S+)", example))


def test_codes_are_unique_and_in_order() -> None:
    codes = [entry.code for entry in ENTRIES]
    assert len(set(codes)) == len(codes)
    assert codes == sorted(codes, key=lambda code: code[1:])


def test_what_is_raised_is_explained_and_what_is_explained_is_raised() -> None:
    assert {entry.code for entry in ENTRIES} == RAISED


def test_every_code_has_a_wrong_file_with_the_exact_answer() -> None:
    shown = {path.name[:4] for path in (Path(__file__).parents[1] / "fixtures" / "err").glob("*.txt")}
    assert {entry.code for entry in ENTRIES} - INSTALLED <= shown


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.code)
def test_an_entry_says_all(entry: Entry) -> None:
    assert re.fullmatch(r"[EW][1-7]\d\d", entry.code)
    assert entry.severity == ("warning" if entry.code[0] == "W" else "error")
    for sentence in (entry.means, entry.why):
        assert sentence.endswith(".")
    assert entry.title[0].islower()
    assert entry.wrong != entry.right
    assert entry.code in entry.text()
    prose = entry.text().partition("Wrong:")[0]
    assert max(map(len, prose.splitlines())) <= 100


@pytest.mark.parametrize("entry", SHOWN, ids=lambda entry: entry.code)
def test_the_wrong_example_has_the_problem_and_no_other(entry: Entry, tmp_path: Path) -> None:
    assert codes_of(entry.wrong, tmp_path) == {entry.code}


@pytest.mark.parametrize("entry", SHOWN, ids=lambda entry: entry.code)
def test_the_right_example_has_no_problem(entry: Entry, tmp_path: Path) -> None:
    path = tmp_path / "main.opt"
    path.write_text(file_of(entry.right), encoding="utf-8")
    loaded = load(path, overrides_of(entry.right))
    assert not loaded.diagnostics, render(loaded.diagnostics, loaded.texts)


def test_a_code_is_found_in_small_letters() -> None:
    assert catalogue.entry("e201").code == "E201"
    with pytest.raises(KeyError):
        catalogue.entry("E999")


def test_no_message_names_a_page_that_an_installed_optlang_does_not_have() -> None:
    found = []
    for path in sorted(SOURCES.rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        spoken = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        found += [
            f"{path.name}:{node.lineno}" for node in nodes
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in spoken
            and re.search(r"\bdocs/|\w\.md\b(?!\w)", node.value) and "README.md" not in node.value
        ]
    assert not found
