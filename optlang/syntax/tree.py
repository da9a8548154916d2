"""The syntax tree: frozen nodes, one a construct of grammar/optlang.lark, each with its span. No meaning yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, TypeAlias

from optlang.diagnostics.model import Span


@dataclass(frozen=True, slots=True)
class Node:
    """Anything that stands in the text, at `span`."""

    span: Span


# ---- expressions


@dataclass(frozen=True, slots=True)
class Name(Node):
    """One identifier."""

    text: str


@dataclass(frozen=True, slots=True)
class Number(Node):
    """An exact decimal as written, with its unit's spelling (`2ms` → 2, "ms"; `30%` → 30, "%"; `0.5` → no unit).

    `whole` holds of `3`, not of `3.0` and `1e3`: only the first is an integer.
    """

    value: Decimal
    unit: str | None
    whole: bool


@dataclass(frozen=True, slots=True)
class String(Node):
    """A text between double quotes, escapes resolved."""

    value: str


@dataclass(frozen=True, slots=True)
class Truth(Node):
    """`true` or `false`."""

    value: bool


@dataclass(frozen=True, slots=True)
class Path(Node):
    """Names joined by dots; a bare name is a path of one part (`none` is one too)."""

    parts: tuple[Name, ...]

    @property
    def text(self) -> str:
        """The path as written, without spaces."""
        return ".".join(part.text for part in self.parts)


@dataclass(frozen=True, slots=True)
class Call(Node):
    """`zoo.digits_cnn(width = 32)`; arguments are `Fix` or `Vary`, or a bare expression for a positional one."""

    path: Path
    arguments: tuple[Expression | Fix | Vary, ...]


@dataclass(frozen=True, slots=True)
class ListOf(Node):
    """`[1, 2, 4]`: a list of values, or an ordered domain."""

    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Unary(Node):
    """`-x` or `not x`."""

    operator: Literal["-", "not"]
    operand: Expression


@dataclass(frozen=True, slots=True)
class Binary(Node):
    """Two operands joined by an arithmetic, comparison or logical operator."""

    operator: Literal["+", "-", "*", "/", "==", "!=", "<=", ">=", "<", ">", "and", "or"]
    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True)
class Member(Node):
    """`precision in {static, dynamic}` inside an expression."""

    value: Expression
    options: Block | ListOf


Expression: TypeAlias = "Number | String | Truth | Path | Call | ListOf | Unary | Binary | Member"


# ---- domains


@dataclass(frozen=True, slots=True)
class Range(Node):
    """`low .. high`, with `step S` or `log`."""

    low: Expression
    high: Expression
    step: Expression | None
    log: bool


@dataclass(frozen=True, slots=True)
class AnyValue(Node):
    """`any`: all that the declaration allows."""


@dataclass(frozen=True, slots=True)
class AnyOrder(Node):
    """`any order { … }`: a permutation of the block's statements."""

    block: Block


Domain: TypeAlias = "Range | Block | AnyValue | AnyOrder | Expression"


# ---- statements of blocks: steps, settings, choices and sets are written alike


@dataclass(frozen=True, slots=True)
class Fix(Node):
    """`name = value`, `name = value { … }`, `name = { … }`; a wrong `name = 1 .. 3` is kept, and reported later.

    `keyword` is where `=` stands, None where it touches its neighbor, so that no word could replace it.
    """

    name: Name
    value: Domain
    block: Block | None = None
    when: Expression | None = None
    keyword: Span | None = None


@dataclass(frozen=True, slots=True)
class Vary(Node):
    """`name in domain`; `keyword` is where `in` stands, as in `Fix`."""

    name: Name
    domain: Domain
    when: Expression | None = None
    keyword: Span | None = None


@dataclass(frozen=True, slots=True)
class Element(Node):
    """An expression by itself: a step, a branch, a member of a set; with a block of settings or without."""

    value: Expression
    block: Block | None = None
    when: Expression | None = None


@dataclass(frozen=True, slots=True)
class Maybe(Node):
    """`maybe STATEMENT`; `keyword` is where the word itself stands."""

    statement: Statement
    keyword: Span


@dataclass(frozen=True, slots=True)
class Repeat(Node):
    """`repeat name in domain { … }` or, where `fixed`, `repeat name = count { … }`."""

    name: Name
    count: Domain
    fixed: bool
    block: Block
    when: Expression | None = None


@dataclass(frozen=True, slots=True)
class Guard(Node):
    """`when condition { … }`."""

    condition: Expression
    block: Block


Statement: TypeAlias = "Fix | Vary | Element | Maybe | Repeat | Guard"


@dataclass(frozen=True, slots=True)
class Block(Node):
    """What stands between `{` and `}`, braces included in the span."""

    statements: tuple[Statement, ...]


# ---- members of a study


@dataclass(frozen=True, slots=True)
class Let(Node):
    """`let name = value or domain`."""

    name: Name
    value: Domain


@dataclass(frozen=True, slots=True)
class Input(Node):
    """`input name: type in domain = default "help"`."""

    name: Name
    type: Name
    domain: Domain | None
    default: Expression | None
    help: String | None


@dataclass(frozen=True, slots=True)
class Metric(Node):
    """`metric name: type maximize measured = value "help"`; `measured` by optlang itself, else returned by the task.

    `value` is the call of the object that computes it, None where the task returns it.
    """

    path: Path
    type: Name
    direction: Literal["minimize", "maximize"]
    measured: bool
    value: Expression | None
    help: String | None


@dataclass(frozen=True, slots=True)
class Make(Node):
    """`model name = factory(…)` or `data name = factory(…)`."""

    kind: Literal["model", "data"]
    name: Name
    value: Expression


@dataclass(frozen=True, slots=True)
class Section(Node):
    """`baseline`, `steps`, `measure` or `search`, with its block; `keyword` is where the word stands."""

    kind: Literal["baseline", "steps", "measure", "search"]
    keyword: Span
    block: Block


@dataclass(frozen=True, slots=True)
class Target(Node):
    """`target name = base { … }`."""

    name: Name
    base: Path | None
    block: Block | None


@dataclass(frozen=True, slots=True)
class Rule(Node):
    """`require expression because "…"` or `forbid …`."""

    kind: Literal["require", "forbid"]
    keyword: Span
    expression: Expression
    because: String | None


@dataclass(frozen=True, slots=True)
class Goal(Node):
    """`minimize metric, …` or `maximize metric, …`."""

    direction: Literal["minimize", "maximize"]
    keyword: Span
    metrics: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Study(Node):
    """`study name "title" { members }`."""

    name: Name
    title: String | None
    members: tuple[StudyMember, ...]


StudyMember: TypeAlias = "Input | Let | Metric | Make | Section | Target | Rule | Goal"


# ---- declarations of the standard library and plug-ins


@dataclass(frozen=True, slots=True)
class Param(Node):
    """`param name: type in domain = default when condition "help"`."""

    name: Name
    type: Name
    domain: Domain | None
    default: Expression | None
    when: Expression | None
    help: String | None


@dataclass(frozen=True, slots=True)
class Change(Node):
    """`name in domain = default "help"`: what differs from the parameter that a group declares; None where it stays."""

    name: Name
    domain: Domain | None
    default: Expression | None
    help: String | None


@dataclass(frozen=True, slots=True)
class Changes(Node):
    """The changes between `{` and `}`, braces included in the span."""

    items: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Use(Node):
    """A group of parameters after `with`, with what differs here."""

    group: Path
    changes: Changes | None


@dataclass(frozen=True, slots=True)
class Uses(Node):
    """`with group, group { changes }`."""

    groups: tuple[Use, ...]


@dataclass(frozen=True, slots=True)
class Calls(Node):
    """`calls "module:object"`."""

    value: String


@dataclass(frozen=True, slots=True)
class Clause(Node):
    """A fact with names: `takes module, onnx`; `keyword` is its first word."""

    keyword: Literal[
        "needs", "takes", "gives", "traits", "after", "excludes", "performs", "cost_depends_on", "recovered_by",
        "stronger_with", "milder_with",
    ]
    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Declaration(Node):
    """`technique name "help" { facts }`, and likewise pipeline, runtime, model, data and params."""

    kind: Literal["technique", "pipeline", "runtime", "model", "data", "params"]
    name: Name
    help: String | None
    facts: tuple[Param | Uses | Calls | Clause | Section, ...]


# ---- a file


@dataclass(frozen=True, slots=True)
class ImportModule(Node):
    """`import path as name`."""

    path: Path
    alias: Name | None


@dataclass(frozen=True, slots=True)
class ImportNames(Node):
    """`from path import name, …`."""

    path: Path
    names: tuple[Name, ...]


@dataclass(frozen=True, slots=True)
class ImportPython(Node):
    """`import python "models.py" as name`."""

    source: String
    alias: Name


Import: TypeAlias = "ImportModule | ImportNames | ImportPython"
Item: TypeAlias = "Study | Declaration | Target | Metric | Let"


@dataclass(frozen=True, slots=True)
class File(Node):
    """One `.opt` file: the edition it names, its imports and its items, in the order of the text."""

    edition: Number | None
    imports: tuple[Import, ...]
    items: tuple[Item, ...]


def paths(node: Node) -> Iterator[Path]:
    """The names in an expression, a domain or a block of settings, where they stand; not the words of a set."""
    match node:
        case Path():
            yield node
        case Unary(operand=inner) | Member(value=inner) | Fix(value=inner) | Vary(domain=inner) | Element(value=inner):
            yield from paths(inner)
        case Binary(left=left, right=right):
            yield from paths(left)
            yield from paths(right)
        case Range(low=low, high=high):
            yield from paths(low)
            yield from paths(high)
        case ListOf(items=items) | Call(arguments=items) | Block(statements=items):
            for item in items:
                yield from paths(item)
    when = getattr(node, "when", None)
    if isinstance(when, Node):
        yield from paths(when)
