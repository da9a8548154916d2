"""The labels of a file, the knobs that they name, and every place that names one of them.

Follows the rules of analysis/ over the tree alone, so that a file with mistakes has them too. What a rename made of
these is checked against the plan, see rename.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from optlang.analysis.modules.names import Declared, Scope
from optlang.diagnostics.model import Span
from optlang.syntax import tree


@dataclass(frozen=True, slots=True)
class Label:
    """A name that the file gives to a step, a branch, a target, an input or a `let`.

    `span` is where. A step without a label of its own has its technique's name: `bare` is then where the step begins.
    A parameter's name, which is a knob's last label, is `fixed`: its declaration gives it.
    """

    text: str
    span: Span
    bare: Span | None = None
    fixed: bool = False


Chain = tuple[Label, ...]


@dataclass(slots=True, eq=False)
class Knob:
    """A knob by the labels of its path, what its values name, and where its domain stands."""

    chain: Chain
    domain: Span
    values: dict[str, Label] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The full path."""
        return ".".join(label.text for label in self.chain)


@dataclass(frozen=True, slots=True)
class _Named:
    """A path in an expression, the `repeat`s around it, and the path that it is compared with."""

    path: tree.Path
    rounds: tuple[Chain, ...]
    other: tree.Path | None = None


@dataclass(slots=True, eq=False)
class Labels:
    """The knobs of a study, or of a pipeline's own steps, and what names them; `owner` is the study's or its name."""

    owner: str = ""
    knobs: list[Knob] = field(default_factory=list)
    names: dict[str, Label] = field(default_factory=dict)
    """Inputs, `let`s and parameters, which go before endings of paths."""
    targets: dict[str, Label] = field(default_factory=dict)
    labels: list[Label] = field(default_factory=list)
    repeats: list[Label] = field(default_factory=list)
    _named: list[_Named] = field(default_factory=list)
    _set: list[tuple[Span, Label]] = field(default_factory=list)

    def knob(self, text: str) -> Knob | None:
        """The knob of this path, or the only one whose path ends so."""
        found = [knob for knob in self.knobs if knob.path == text or knob.path.endswith(f".{text}")]
        found = [knob for knob in found if knob.path == text] or found
        return found[0] if len({knob.path for knob in found}) == 1 else None

    def uses(self) -> Iterator[tuple[Span, Label]]:
        """Every place that names a label, with the label."""
        yield from self._set
        for item in dict.fromkeys(self._named):
            yield from self._resolved(item)

    def _resolved(self, item: _Named) -> Iterator[tuple[Span, Label]]:
        parts, text = item.path.parts, item.path.text
        compared = self.knob(item.other.text) if item.other is not None and item.other.text not in self.names else None
        if compared is not None and text in compared.values:
            yield item.path.span, compared.values[text]
            return
        if text in self.names:
            yield item.path.span, self.names[text]
            return
        for chain in reversed(item.rounds):
            names = parts[:-1] if len(parts) > 1 and parts[-1].text == "round" else parts
            if [label.text for label in chain][-len(names) :] == [name.text for name in names]:
                yield from zip((name.span for name in names), chain[-len(names) :], strict=True)
                return
        knob = self.knob(text)
        if knob is not None:
            yield from zip((part.span for part in parts), knob.chain[-len(parts) :], strict=True)
            return
        inner = parts[1:] if parts[0].text == "baseline" else parts
        if len(inner) > 1 and inner[0].text in self.targets:
            yield inner[0].span, self.targets[inner[0].text]


def labels_of(file: tree.File, scope: Scope) -> list[Labels]:
    """The labels of each study and each pipeline of the file."""
    found = []
    for item in file.items:
        if isinstance(item, tree.Study):
            found.append(_Walk(scope).study(item))
        elif isinstance(item, tree.Declaration):
            found.append(_Walk(scope).declaration(item))
    return found


@dataclass(slots=True, eq=False)
class _Walk:
    scope: Scope
    made: Labels = field(default_factory=Labels)
    _lets: dict[str, tree.Let] = field(default_factory=dict)
    _rounds: tuple[Chain, ...] = ()
    _open: tuple[str, ...] = ()

    def study(self, node: tree.Study) -> Labels:
        self.made.owner = node.name.text
        for member in node.members:
            if isinstance(member, tree.Input | tree.Let):
                self._name(member.name)
            if isinstance(member, tree.Let):
                self._lets[member.name.text] = member
        for member in node.members:
            match member:
                case tree.Target():
                    self._target(member)
                case tree.Section(kind="steps" | "baseline", block=block):
                    self._block(block, ())
                case _:
                    self._expressions(member)
        return self.made

    def declaration(self, node: tree.Declaration) -> Labels:
        self.made.owner = node.name.text
        declared = self.scope.own.declared.get(node.name.text)
        self.made.names |= _params(declared)
        self.made.labels += [label for label in self.made.names.values() if not label.fixed]
        for fact in node.facts:
            if isinstance(fact, tree.Section):
                self._block(fact.block, ())
            elif isinstance(fact, tree.Param):
                self._expressions(fact)
        return self.made

    def _name(self, name: tree.Name) -> None:
        label = self._label(Label(name.text, name.span))
        self.made.names.setdefault(name.text, label)

    def _label(self, label: Label) -> Label:
        self.made.labels.append(label)
        return label

    # ---- expressions

    def _expressions(self, node: Any) -> None:
        """Enter every path that stands somewhere in `node`."""
        match node:
            case tree.Path():
                self.made._named.append(_Named(node, self._rounds))
            case tree.Binary(left=tree.Path() as left, right=tree.Path() as right):
                self.made._named += [_Named(left, self._rounds, right), _Named(right, self._rounds, left)]
            case tree.Member(value=tree.Path() as value, options=options):
                self._expressions(value)
                items: Sequence[Any] = options.statements if isinstance(options, tree.Block) else options.items
                for item in items:
                    inner = item.value if isinstance(item, tree.Element) else item
                    if isinstance(inner, tree.Path):
                        self.made._named.append(_Named(inner, self._rounds, value))
            case tree.Call(arguments=arguments):
                for argument in arguments:
                    self._expressions(argument)
            case tree.Block(statements=statements):
                # In a set of values a word is one of them before it is anything else.
                for item in statements:
                    if isinstance(item, tree.Element) and getattr(item.value, "text", "") in self.made.names:
                        self._expressions(item.value)
            case tree.Node():
                for item in dataclasses.fields(node):
                    self._expressions(getattr(node, item.name))
            case tuple():
                for item in node:
                    self._expressions(item)

    def _unfold(self, node: Any) -> Any:
        seen: set[str] = set()
        while isinstance(node, tree.Path) and node.text not in seen:
            seen.add(node.text)
            if node.text in self._lets:
                node = self._lets[node.text].value
                continue
            found = self.scope.find(node)
            if found is not None and isinstance(found.node, tree.Let):
                node = found.node.value
        return node

    # ---- steps

    def _block(self, block: tree.Block, chain: Chain) -> dict[str, Label]:
        found: dict[str, Label] = {}
        for item in block.statements:
            if isinstance(item, tree.Guard):
                self._expressions(item.condition)
                found |= self._block(item.block, chain)
            elif (label := self._statement(item, chain)) is not None:
                found[label.text] = label
        return found

    def _statement(self, node: tree.Statement, chain: Chain) -> Label | None:
        match node:
            case tree.Maybe(statement=tree.Fix() | tree.Element() as inner):
                label = self._statement(inner, chain)
                if label is not None:
                    self.made.knobs.append(Knob((*chain, label), node.span))
                return label
            case tree.Maybe(statement=inner):
                return self._statement(inner, chain)
            case tree.Guard():
                # Behind a `maybe`, which is wrong there.
                return None
        self._expressions(node.when)
        match node:
            case tree.Element(value=tree.Path() as path, block=settings):
                if path.text == "none":
                    # It is a value of its choice, and no label.
                    return None
                last = path.parts[-1]
                return self._step(Label(last.text, last.span, bare=path.span), path, settings, chain)
            case tree.Fix(name=name, value=tree.Path() as path, block=settings):
                return self._step(Label(name.text, name.span), path, settings, chain)
            case tree.Fix(name=name, value=tree.Block() as block):
                label = self._label(Label(name.text, name.span))
                self._block(block, (*chain, label))
                return label
            case tree.Vary(name=name):
                return self._choice(node, (*chain, self._label(Label(name.text, name.span))))
            case tree.Repeat():
                return self._repeat(node, chain)
        return None

    def _step(self, label: Label, path: tree.Path, block: tree.Block | None, chain: Chain) -> Label:
        self._label(label)
        inside = (*chain, label)
        inner = self._unfold(path)
        if inner is not path:
            self._expressions(path)
        if isinstance(inner, tree.Block) and block is None:
            self._block(inner, inside)
            return label
        declared = self.scope.find(path)
        if block is not None:
            self._settings(block, inside, declared)
        node = declared.node if declared is not None and declared.sort == "pipeline" else None
        # The steps of a pipeline of another file have labels there, which name knobs here.
        if declared is not None and isinstance(node, tree.Declaration) and declared.qualified not in self._open:
            walk = _Walk(self.scope, _open=(*self._open, declared.qualified))
            for fact in node.facts:
                if isinstance(fact, tree.Section):
                    walk._block(fact.block, inside)
            self.made.knobs += walk.made.knobs
        return label

    def _choice(self, node: tree.Vary, chain: Chain) -> Label:
        domain = self._unfold(node.domain)
        if domain is not node.domain:
            self._expressions(node.domain)
        block = domain.block if isinstance(domain, tree.AnyOrder) else domain
        values = self._block(block, chain) if isinstance(block, tree.Block) else {}
        self.made.knobs.append(Knob(chain, node.domain.span, values))
        return chain[-1]

    def _repeat(self, node: tree.Repeat, chain: Chain) -> Label:
        self._expressions(node.count)
        label = self._label(Label(node.name.text, node.name.span))
        self.made.repeats.append(label)
        inside = (*chain, label)
        if not node.fixed:
            self.made.knobs.append(Knob(inside, node.count.span))
        around, self._rounds = self._rounds, (*self._rounds, inside)
        self._block(node.block, inside)
        self._rounds = around
        return label

    def _settings(self, block: tree.Block, chain: Chain, declared: Declared | None) -> None:
        words, params = _words(declared), _params(declared)
        for item in block.statements:
            if not isinstance(item, tree.Fix | tree.Vary):
                continue
            label = params.get(item.name.text)
            if label is not None:
                self.made._set.append((item.name.span, label))
            self._expressions(item.when)
            inside = (*chain, label or Label(item.name.text, item.name.span, fixed=True))
            if isinstance(item, tree.Vary):
                self._searched(item, inside)
            elif getattr(item.value, "text", None) not in words.get(item.name.text, ()):
                self._setting(item, inside)

    def _searched(self, node: tree.Vary, chain: Chain) -> None:
        self.made.knobs.append(Knob(chain, node.domain.span))
        self._expressions(node.domain)

    def _setting(self, node: tree.Fix, inside: Chain) -> None:
        self._expressions(node.value)
        items = node.value.items if isinstance(node.value, tree.ListOf) else (node.value,)
        counts: dict[str, int] = {}
        for item in items:
            if not isinstance(item, tree.Call):
                continue
            below = inside
            if isinstance(node.value, tree.ListOf):
                last = item.path.parts[-1]
                counts[last.text] = counts.get(last.text, 0) + 1
                numbered = last.text if counts[last.text] == 1 else f"{last.text}_{counts[last.text]}"
                below = (*inside, Label(numbered, last.span, fixed=True))
            for argument in item.arguments:
                if isinstance(argument, tree.Vary):
                    name = Label(argument.name.text, argument.name.span, fixed=True)
                    self._searched(argument, (*below, name))

    # ---- targets

    def _target(self, node: tree.Target) -> None:
        label = self._label(Label(node.name.text, node.name.span))
        self.made.targets.setdefault(node.name.text, label)
        found: dict[str, tree.Fix | tree.Vary] = {}
        base = self.scope.find(node.base) if node.base is not None else None
        for block in (base.node.block if base is not None and isinstance(base.node, tree.Target) else None, node.block):
            for item in block.statements if block is not None else ():
                if isinstance(item, tree.Fix | tree.Vary):
                    found[item.name.text] = item
        for item in found.values():
            name = Label(item.name.text, item.name.span, fixed=True)
            self._expressions(item.when)
            if item.name.text != "runtime":
                if isinstance(item, tree.Vary):
                    self._searched(item, (label, name))
                else:
                    self._expressions(item.value)
            elif isinstance(item, tree.Fix) and item.block is not None:
                runtime = self.scope.find(item.value) if isinstance(item.value, tree.Path) else None
                self._settings(item.block, (label, name), runtime)
            elif isinstance(item, tree.Vary):
                self._choice(item, (label, name))


def _words(declared: Declared | None) -> dict[str, frozenset[str]]:
    """By parameter, the words that are its values before they are anything else."""
    found: dict[str, frozenset[str]] = {}
    for member in declared.members if declared is not None else ():
        param = member.node
        if param.type.text == "name" and isinstance(param.domain, tree.Block):
            items = [item.value for item in param.domain.statements if isinstance(item, tree.Element)]
            found[param.name.text] = frozenset(item.text for item in items if isinstance(item, tree.Path))
    return found


def _params(declared: Declared | None) -> dict[str, Label]:
    """The parameters of a pipeline, which the language alone names; a technique's are known to its Python too.

    What a group declares, techniques may have too.
    """
    members = declared.members if declared is not None and declared.sort == "pipeline" else ()
    names = [(member.node.name, member.group is not None) for member in members]
    return {name.text: Label(name.text, name.span, fixed=fixed) for name, fixed in names}
