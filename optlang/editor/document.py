"""The files that an editor has open: their texts, the problems found in them, and what they offer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from optlang import resources
from optlang.analysis.definitions import DefinitionKind
from optlang.analysis.load import Loaded, load
from optlang.diagnostics.fixes import apart, applied
from optlang.diagnostics.model import Diagnostic, Fix, Label, Span
from optlang.editor import context, rename, scopes
from optlang.editor.completion import Offer, Offers, knob_offer
from optlang.editor.positions import Positions
from optlang.interfaces import OptlangError
from optlang.syntax.format import format_text

_REST = re.compile(r"(?:\.[A-Za-z_]\w*)+")
"""What goes on with a word that the cursor stands in the middle of."""

_CALLED: dict[DefinitionKind, str] = {
    "input": "an input", "let": "a `let`", "parameter": "a parameter", "setting": "a setting", "step": "a label",
    "repeat": "a label", "target": "a target",
}


@dataclass(frozen=True, slots=True)
class Checked:
    """One text of a file with what was found in it."""

    text: str
    loaded: Loaded


@dataclass(slots=True, eq=False)
class Document:
    """One open file. `text` is what the editor shows; what was checked may be an older text of it."""

    path: Path
    text: str
    encoding: str
    _checked: Checked | None = None
    _offers: Offers | None = None
    _positions: Positions | None = None

    @property
    def shown(self) -> str:
        """What messages call the file."""
        return self.path.as_posix()

    @property
    def positions(self) -> Positions:
        """Lines and columns of the text."""
        if self._positions is None or self._positions.text is not self.text:
            self._positions = Positions(self.text, self.encoding)
        return self._positions


@dataclass(slots=True, eq=False)
class Documents:
    """All open files, by their paths."""

    encoding: str = "utf-16"
    open: dict[Path, Document] = field(default_factory=dict)

    def put(self, path: Path, text: str) -> Document:
        """Take over what the editor shows of a file; a byte order mark is none of its characters."""
        text = text.removeprefix("\ufeff")
        document = self.open.get(path)
        if document is None:
            document = self.open[path] = Document(path, text, self.encoding)
        document.text = text
        return document

    def unsaved(self) -> dict[Path, str]:
        """The texts of all open files, by their resolved paths."""
        return {path.resolve(): document.text for path, document in list(self.open.items())}

    def readers(self, path: Path) -> list[Document]:
        """The open files that may read this one, itself first: all that import something, were it missing till now."""
        others = [item for item in self.open.values() if item.path != path and _imports(item._checked)]
        return [*([self.open[path]] if path in self.open else []), *others]

    # ---- checking

    def check(self, document: Document) -> Checked:
        """Read the file as it stands in the editor."""
        unsaved = self.unsaved()
        text = unsaved[document.path.resolve()] = document.text
        loaded = load(document.path, unsaved=unsaved)
        if loaded.scope is not None and loaded.declarations is not None:
            folder = document.path.parent
            document._offers = Offers(loaded.scope, loaded.declarations, loaded.symbols, folder)
        document._checked = Checked(text, loaded)
        return document._checked

    def current(self, document: Document) -> Checked:
        """The present text, checked."""
        known = document._checked
        return known if known is not None and known.text == document.text else self.check(document)

    # ---- what stands at an offset

    def offers(self, document: Document, offset: int) -> tuple[context.Cursor, list[Offer]]:
        """What may be written at an offset, by what is set there already: reads no more than the file's tokens."""
        around = context.around(document.text, offset)
        if document._offers is None:
            self.check(document)
        offers = document._offers
        if around.dead or offers is None:
            return around, []
        slot = scopes.slot_of(around, offers.scope, offers.declarations)
        found = {offer.label: offer for offer in reversed(list(offers.at(around, slot)))}
        # What is set already is not offered again; the word under the cursor may be the one that sets it.
        taken = slot.written - {around.word}
        kept = [item for item in found.values() if item.sort != "parameter" or item.label not in taken]
        return around, kept[::-1]

    def offer(self, document: Document, offset: int) -> tuple[Span, Offer] | None:
        """What the word at an offset is, by what may stand there; None where nothing is known of it."""
        around = context.around(document.text, offset)
        if document._offers is None:
            self.check(document)
        offers = document._offers
        if offers is None or not around.word or around.dead:
            return None
        slot = scopes.slot_of(around, offers.scope, offers.declarations)
        listed = {offer.label: offer for offer in reversed(list(offers.at(around, slot)))}
        rest = _REST.match(document.text, around.end)
        whole = around.end if rest is None else rest.end()
        for end in (whole, around.end):
            offer = listed.get(document.text[around.start : end])
            if offer is not None:
                return Span(document.shown, around.start, end), offer
        return None

    def described(self, document: Document, offset: int) -> tuple[Span, str] | None:
        """What the word at an offset is, in Markdown."""
        known = self.offer(document, offset)
        if known is not None:
            return known[0], self.help(document, known[1])
        loaded = self.current(document).loaded
        found = rename.renamable(loaded, offset)
        if found is None:
            return None
        for part in loaded.symbols:
            for knob in part.knobs:
                label = part.labels.get(knob.path)
                if label is not None and label.span == found[0].span and document._offers is not None:
                    return found[1], document._offers.whole(knob_offer(knob, label.name))
        called = _CALLED.get(found[0].kind)
        return (found[1], f"**{found[0].name}**: {called}") if called is not None else None

    def help(self, document: Document, offer: Offer) -> str:
        """All that is known of an offer, in Markdown."""
        return document._offers.whole(offer) if document._offers is not None else ""

    def definition(self, document: Document, offset: int) -> Span | None:
        """Where the word at an offset is declared."""
        scope = self.current(document).loaded.scope
        named = scope.table.named_at(document.shown, offset) if scope is not None else None
        if named is not None:
            return named[1].span
        known = self.offer(document, offset)
        if known is not None:
            return known[1].span
        defined = scope.table.defined_at(document.shown, offset) if scope is not None else None
        return defined.span if defined is not None else None

    # ---- edits

    def rename(self, document: Document, offset: int, name: str) -> list[Fix]:
        """The edits that rename the label at an offset; OptlangError, with its reason, where that cannot be."""
        checked = self.current(document)
        found = rename.renamable(checked.loaded, offset)
        if found is None:
            raise OptlangError("nothing here has a name that could be changed")

        def read(text: str, path: Path = document.path) -> Loaded:
            return load(path, unsaved={**self.unsaved(), document.path.resolve(): text})

        edits = rename.renamed(checked.loaded, found[0], name, read)
        after = applied(checked.loaded.parsed.source.text, edits)
        for other in self._importers(document):
            if not read(checked.text, other).failed and read(after, other).failed:
                raise OptlangError(f"{other.name} names `{found[0].name}` too, and would be wrong")
        return edits

    def _importers(self, document: Document) -> list[Path]:
        """The files of its folder that may import it."""
        word = re.compile(rf"^\s*(?:from|import)\s+{re.escape(document.path.stem)}\b", re.MULTILINE)
        unsaved, found = self.unsaved(), []
        for path in sorted(document.path.parent.glob("*.opt")):
            if path != document.path:
                text = unsaved.get(path.resolve())
                if word.search(text if text is not None else path.read_text(encoding="utf-8", errors="replace")):
                    found.append(path)
        return found

    def label(self, document: Document, offset: int) -> Span | None:
        """The name of a label at an offset, which can be changed."""
        found = rename.renamable(self.current(document).loaded, offset)
        return found[1] if found is not None and not found[0].fixed else None

    def occurrences(self, document: Document, offset: int) -> list[Span]:
        """Where the label at an offset stands and is named in the file."""
        loaded = self.current(document).loaded
        found = rename.renamable(loaded, offset)
        if found is None or loaded.scope is None:
            return []
        return loaded.scope.table.spans_of(found[0])

    def laid_out(self, document: Document) -> str | None:
        """The text in its one layout; None where it has mistakes of syntax."""
        parsed = self.current(document).loaded.parsed
        return format_text(parsed) if parsed.file is not None and not parsed.diagnostics.failed else None

    def fixes(self, document: Document) -> list[Fix]:
        """All fixes of the file that can be applied together."""
        found = self.current(document).loaded.diagnostics
        return apart(item.fix for item in found if item.fix is not None and item.fix.span.file == document.shown)

    def path_of(self, file: str) -> Path:
        """The file that a span names: the standard library's are in the package."""
        path = Path(file)
        return resources.stdlib() / path.name if path.parts[:1] == ("stdlib",) and len(path.parts) == 2 else path


def _imports(checked: Checked | None) -> bool:
    file = checked.loaded.parsed.file if checked is not None else None
    return file is None or bool(file.imports)


def placed(item: Diagnostic, shown: str) -> tuple[Span, Iterator[Label]]:
    """Where a problem is shown, and what else is to be pointed at: in this file where anything of it stands there."""
    here = [label for label in (item.primary, *item.labels) if label.span.file == shown]
    first = here[0] if here else item.primary
    return first.span, (label for label in (item.primary, *item.labels) if label is not first)
