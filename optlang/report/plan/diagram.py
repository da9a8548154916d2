"""A plan as a picture of its pipeline with the knobs on it, for Graphviz (DOT) or Mermaid. Draws nothing itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from optlang.plan.domains import show_domain
from optlang.plan.expressions import KnobRef, references
from optlang.plan.model import (
    Apply,
    Choice,
    Computed,
    Group,
    Knob,
    Maybe,
    Models,
    Order,
    Plan,
    Repeat,
    Searched,
    Setting,
    Step,
    Target,
)
from optlang.plan.quantities import counted
from optlang.report.plan.words import Words
from optlang.space.compatibility import label_of

Shape: TypeAlias = Literal["ends", "step", "knob", "repeat"]


@dataclass(frozen=True, slots=True)
class Node:
    """One box: `lines` are its words, `shape` what it stands for (a knob is where the search decides)."""

    name: str
    shape: Shape
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Edge:
    """The way from one node to the next, taken where `words` hold; `back` leads to the next round of a `repeat`."""

    start: str
    end: str
    words: str = ""
    back: bool = False


@dataclass(slots=True)
class Picture:
    """Nodes and edges, in the order of the run."""

    title: str
    nodes: list[Node] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)


_Ends: TypeAlias = "list[tuple[str, str]]"
"""Nodes that lead to whatever comes next, each with what the edge there says."""


def picture(plan: Plan) -> Picture:
    """From the model through the pipeline and each target to the goals."""
    return _Drawing(plan).drawn()


class _Drawing:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._words = Words(plan)
        self._knobs = {knob.path: knob for knob in plan.knobs}
        self._passed = {knob.path: knob for knob in plan.knobs if knob.role == "value"}
        self._picture = Picture(plan.title or plan.study)

    def drawn(self) -> Picture:
        first = (f"model {self._plan.model.name}", *(["trained once: the baseline"] if self._plan.baseline else []))
        ends = self._steps(self._plan.steps, self._node("ends", first, []))
        measured = [end for target in self._plan.targets for end in self._target(target, ends)]
        goals = [f"{item.direction} {self._words.metric(item.metric)}" for item in self._plan.objectives]
        needed = [f"require {' '.join(rule.text.split())}" for rule in self._plan.requires]
        self._node("ends", ("measure", *goals, *needed), measured)
        return self._picture

    def _node(self, shape: Shape, lines: Iterable[str], ends: _Ends) -> _Ends:
        """Add a node that `ends` lead to; what leads on from it."""
        name = f"n{len(self._picture.nodes)}"
        self._picture.nodes.append(Node(name, shape, tuple(lines)))
        self._picture.edges += [Edge(start, name, words) for start, words in ends]
        return [(name, "")]

    def _steps(self, steps: tuple[Step, ...], ends: _Ends) -> _Ends:
        for step in steps:
            if step.when is None:
                ends = self._step(step, ends)
            else:
                asked = self._node("knob", [f"when {self._words.say(step.when)}"], ends)
                ends = self._step(step, _said(asked, "yes")) + _said(asked, "no")
        return ends

    def _step(self, step: Step, ends: _Ends) -> _Ends:
        label = label_of(step.path)
        match step:
            case Apply(technique=technique, settings=settings):
                name = technique.rpartition(".")[2]
                said = name if name == label else f"{label} = {name}"
                return self._node("step", (said, *self._searched(settings, step.path)), ends)
            case Choice(branches=branches):
                asked = self._node("knob", [f"{label}: one of"], ends)
                return [
                    end for branch in branches
                    for end in self._steps(
                        branch.steps, _said(asked, branch.name + self._words.when(step.path, branch.name))
                    )
                ]
            case Maybe(steps=steps):
                asked = self._node("knob", [f"maybe {label}"], ends)
                return self._steps(steps, _said(asked, "in")) + _said(asked, "out")
            case Repeat(steps=steps):
                return self._repeat(step, label, steps, ends)
            case Order(members=members):
                asked = self._node("repeat", [f"{label}: each once, in any order"], ends)
                for member in members:
                    self._again(self._steps(member.steps, _said(asked, member.name)), asked)
                return _said(asked, "done")
            case Group(steps=steps):
                return self._steps(steps, ends)

    def _repeat(self, step: Repeat, label: str, steps: tuple[Step, ...], ends: _Ends) -> _Ends:
        knob = None if step.count is not None else self._knobs[step.counter]
        if knob is None:
            times = counted(step.count or 1, "time")
        else:
            times = f"{show_domain(knob.domain, knob.dimension)} times"
        if step.knob is not None:
            times = f"{label_of(step.knob)} in {times}"
        asked = self._node("repeat", [f"{label}: {times}"], ends)
        self._again(self._steps(steps, _said(asked, "round")), asked)
        return _said(asked, "done")

    def _again(self, ends: _Ends, asked: _Ends) -> None:
        self._picture.edges += [Edge(start, asked[0][0], words, back=True) for start, words in ends]

    def _target(self, target: Target, ends: _Ends) -> _Ends:
        searched = self._searched({"threads": target.threads, "batch": target.batch}, target.name)
        words = (f"{target.name}: {target.place}", *searched)
        ends = self._node("knob" if target.knob is not None else "step", words, ends)
        made = []
        for use in target.runtimes:
            name = use.runtime.rpartition(".")[2]
            said = name if name == use.label else f"{use.label} = {name}"
            when = self._words.when(target.knob, use.label) if target.knob is not None else ""
            made += self._node("step", (said, *self._searched(use.settings, use.path)), _said(ends, when.strip()))
        return made

    def _searched(self, settings: dict[str, Setting], at: str) -> Iterator[str]:
        """A line for each setting of the step at `at` that is a knob or follows from one; models' arguments too."""
        for name, setting in settings.items():
            if isinstance(setting, Searched):
                yield self._domain(name, self._knobs[setting.knob])
            elif said := self._words.searched_when(setting, f"{at}.{name}"):
                self._passed.pop(f"{at}.{name}", None)
                yield f"{name} in {said}"
            elif isinstance(setting, Computed):
                # The parameter of a pipeline has no step of its own to stand at.
                for ref in references(setting.expression):
                    if isinstance(ref, KnobRef) and ref.path in self._passed:
                        yield self._domain(label_of(ref.path), self._passed.pop(ref.path))
                yield f"{name} = {self._words.computed(setting)}"
            elif isinstance(setting, Models):
                for use in setting.models:
                    for key, item in use.arguments.items():
                        if isinstance(item, Searched):
                            yield self._domain(f"{name}.{key}", self._knobs[item.knob])

    def _domain(self, name: str, knob: Knob) -> str:
        self._passed.pop(knob.path, None)
        return f"{name} in {show_domain(knob.domain, knob.dimension)}"


def _said(ends: _Ends, words: str) -> _Ends:
    return [(name, words) for name, _ in ends]


# ---- as text

_DOT_SHAPES: dict[Shape, str] = {
    "ends": 'shape=box, style="rounded,bold"', "step": "shape=box", "knob": "shape=diamond", "repeat": "shape=hexagon",
}


def dot(drawn: Picture) -> str:
    """The picture for Graphviz, https://graphviz.org/doc/info/lang.html."""
    rows = [f"digraph {_quoted(drawn.title)} {{", "  rankdir=TB", '  node [fontname="sans-serif", fontsize=10]',
            '  edge [fontname="sans-serif", fontsize=9]']
    rows += [f"  {node.name} [label={_quoted(*node.lines)}, {_DOT_SHAPES[node.shape]}]" for node in drawn.nodes]
    for edge in drawn.edges:
        said = [f"label={_quoted(edge.words)}"] if edge.words else []
        said += ["style=dashed", "constraint=false"] if edge.back else []
        rows.append(f"  {edge.start} -> {edge.end}" + (f" [{', '.join(said)}]" if said else ""))
    return "\n".join([*rows, "}"]) + "\n"


def _quoted(*lines: str) -> str:
    return '"' + "\\n".join(re.sub(r'(["\\])', r"\\\1", line) for line in lines) + '"'


_MERMAID_SHAPES: dict[Shape, tuple[str, str]] = {
    "ends": ("([", "])"), "step": ("[", "]"), "knob": ("{", "}"), "repeat": ("{{", "}}"),
}


def mermaid(drawn: Picture) -> str:
    """The picture as a Mermaid flowchart, https://mermaid.js.org/syntax/flowchart.html; GitHub draws it."""
    rows = ["---", f"title: {_yaml(drawn.title)}", "---", "flowchart TB"]
    for node in drawn.nodes:
        opened, closed = _MERMAID_SHAPES[node.shape]
        words = "<br>".join(map(_escaped, node.lines))
        rows.append(f'  {node.name}{opened}"{words}"{closed}')
    for edge in drawn.edges:
        arrow = "-.->" if edge.back else "-->"
        said = f'|"{_escaped(edge.words)}"|' if edge.words else ""
        rows.append(f"  {edge.start} {arrow}{said} {edge.end}")
    return "\n".join(rows) + "\n"


def _escaped(text: str) -> str:
    """Characters that Mermaid would take for its own, as its entity codes."""
    return re.sub(r'["#<>&`]', lambda found: f"#{ord(found[0])};", text)


def _yaml(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
