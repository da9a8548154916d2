"""The picture of a plan: one way in and one out, no knob is left out, and both languages are well formed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from optlang.analysis.load import load
from optlang.cli.app import command
from optlang.plan.model import Plan
from optlang.report.plan.diagram import Edge, Node, Picture, dot, mermaid, picture

ROOT = Path(__file__).parents[3]
FOLDERS = ("studies", "benchmarks/curves", "benchmarks/tradeoffs", "tests/fixtures/ok")
STUDIES = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.opt"))


def plans() -> list[tuple[str, Plan]]:
    found = ((path.stem, load(path).plan) for path in STUDIES)
    return [(name, plan) for name, plan in found if plan is not None]


@pytest.mark.parametrize(("name", "plan"), plans(), ids=lambda item: item if isinstance(item, str) else "")
def test_every_study_is_drawn_whole(name: str, plan: Plan) -> None:
    drawn = picture(plan)
    names = [node.name for node in drawn.nodes]
    forward = [edge for edge in drawn.edges if not edge.back]
    assert {edge.end for edge in forward} == set(names) - {names[0]}
    assert {edge.start for edge in drawn.edges} == set(names) - {names[-1]}
    words = "\n".join(line for node in drawn.nodes for line in node.lines)
    for knob in plan.knobs:
        assert knob.path.rpartition(".")[2] in words or knob.path in {target.knob for target in plan.targets}, knob.path
    for line in mermaid(drawn).splitlines()[4:]:
        assert re.fullmatch(r'  (n\d+\S\S?"[^"]*"\S\S?|n\d+ (-->|-\.->)(\|"[^"]*"\|)? n\d+)', line), line
    assert dot(drawn).count("{") - dot(drawn).count("}") == words.count("{") - words.count("}")


def test_ways_carry_what_decides_them(plan_of: Callable[..., Plan]) -> None:
    drawn = picture(plan_of("""
        steps {
          maybe channels { ratio in [10%, 20%] }
          repeat rounds in 0 .. 2 { finetune }
          precision in { none; static } when rounds == 0
        }
    """))
    said = {(edge.start, edge.end, edge.words, edge.back) for edge in drawn.edges}
    labels = {node.name: node.lines[0] for node in drawn.nodes}
    ways = {(labels[start], labels[end], words, back) for start, end, words, back in said}
    assert {
        ("maybe channels", "channels", "in", False), ("maybe channels", "rounds: 0 .. 2 times", "out", False),
        ("rounds: 0 .. 2 times", "finetune", "round", False), ("finetune", "rounds: 0 .. 2 times", "", True),
        ("rounds: 0 .. 2 times", "when rounds == 0", "done", False),
        ("when rounds == 0", "precision: one of", "yes", False),
        ("precision: one of", "static", "static", False),
    } <= ways
    assert ("channels", "ratio in [10%, 20%]") in {node.lines for node in drawn.nodes}


def test_words_are_escaped() -> None:
    drawn = Picture('a "title"', [Node("n0", "step", ('say "x" <= 1 \\',)), Node("n1", "knob", ("y",))],
                    [Edge("n0", "n1", "#1")])
    assert dot(drawn) == (
        'digraph "a \\"title\\"" {\n  rankdir=TB\n  node [fontname="sans-serif", fontsize=10]\n'
        '  edge [fontname="sans-serif", fontsize=9]\n  n0 [label="say \\"x\\" <= 1 \\\\", shape=box]\n'
        '  n1 [label="y", shape=diamond]\n  n0 -> n1 [label="#1"]\n}\n'
    )
    assert '  n0["say #34;x#34; #60;= 1 \\"]\n' in mermaid(drawn)
    assert 'n0 -->|"#35;1"| n1' in mermaid(drawn)


def test_the_command_gives_one_picture_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    study = str(ROOT / "studies" / "digits.opt")
    assert command(["plan", study, "--dot"]) == 0
    assert capsys.readouterr().out.startswith('digraph "Shrink a digit classifier')
    assert command(["plan", study, "--mermaid"]) == 0
    assert "flowchart TB" in capsys.readouterr().out
    assert command(["plan", study, "--mermaid", "--json"]) == 2
