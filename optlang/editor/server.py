"""The language server: the Language Server Protocol over standard input and output, by pygls.

Texts arrive whole with each change. Checking is postponed until typing rests, and runs next to the editor's requests;
completion and hover answer from the last check and the tokens of the present text.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Protocol

from lsprotocol import types
from pygls.exceptions import JsonRpcException
from pygls.lsp.server import LanguageServer
from pygls.uris import from_fs_path, to_fs_path

from optlang.diagnostics.model import Diagnostic, Fix, Span
from optlang.editor.completion import Offer, Sorted
from optlang.editor.document import Document, Documents, placed
from optlang.editor.positions import Positions
from optlang.interfaces import OptlangError

REST = 0.15
"""Seconds without a change after which a file is checked."""

REQUEST_FAILED = -32803
"""The protocol's code for a request that is right and cannot be met (LSP 3.17)."""

_FIX_ALL = "source.fixAll.optlang"
_KINDS: dict[Sorted, types.CompletionItemKind] = {
    "keyword": types.CompletionItemKind.Keyword, "step": types.CompletionItemKind.Function,
    "runtime": types.CompletionItemKind.Class, "model": types.CompletionItemKind.Constructor,
    "target": types.CompletionItemKind.Interface, "module": types.CompletionItemKind.Module,
    "parameter": types.CompletionItemKind.Property, "value": types.CompletionItemKind.EnumMember,
    "metric": types.CompletionItemKind.Field, "knob": types.CompletionItemKind.Variable,
    "type": types.CompletionItemKind.TypeParameter,
}


class _At(Protocol):
    """A request about a position in a file."""

    text_document: types.TextDocumentIdentifier
    position: types.Position


class Server(LanguageServer):
    """A server for one editor."""

    def __init__(self) -> None:
        version = metadata.version("optlang-dsl")
        super().__init__("optlang", version, text_document_sync_kind=types.TextDocumentSyncKind.Full)
        self.documents = Documents()
        self.ended = False
        self._uris: dict[Path, str] = {}
        self._reported: dict[Path, set[str]] = defaultdict(set)
        self._offered: dict[str, tuple[Document, Offer]] = {}
        self._waiting: dict[Path, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # ---- files and positions

    def document(self, uri: str) -> Document:
        """The open file of an address; what has no file yet counts as lying in the editor's folder."""
        held = self.workspace.get_text_document(uri)
        known = next((path for path, known in self._uris.items() if known == uri), None)
        if known is None:
            place = to_fs_path(uri)
            known = Path(place) if place else self._folder() / f"{uri.rpartition(':')[2].strip('/') or 'unnamed'}.opt"
            self._uris[known] = uri
        encoding = self.workspace.position_encoding
        self.documents.encoding = str(getattr(encoding, "value", encoding))
        return self.documents.put(known, held.source)

    def _folder(self) -> Path:
        return Path(self.workspace.root_path) if self.workspace.root_path else Path.cwd()

    def at(self, params: _At) -> tuple[Document, int]:
        """The open file and the offset in it that a request is about."""
        document = self.document(params.text_document.uri)
        return document, document.positions.offset(params.position.line, params.position.character)

    def uri(self, path: Path) -> str:
        """The address of a file, as the editor wrote it where it did."""
        return self._uris.get(path) or from_fs_path(str(path.resolve())) or path.as_uri()

    def location(self, span: Span, texts: dict[str, str]) -> types.Location:
        """Where a span stands, in whatever file."""
        path = self.documents.path_of(span.file)
        document = self.documents.open.get(path)
        text = document.text if document is not None else texts.get(span.file)
        if text is None:
            text = path.read_text(encoding="utf-8-sig", errors="replace")
        return types.Location(self.uri(path), _range(Positions(text, self.documents.encoding), span))

    def edit(self, document: Document, fixes: Sequence[Fix]) -> types.WorkspaceEdit:
        """Edits of one file."""
        edits = [types.TextEdit(_range(document.positions, fix.span), fix.replacement) for fix in fixes]
        return types.WorkspaceEdit(changes={self.uri(document.path): edits})

    # ---- checking

    def changed(self, document: Document) -> None:
        """Check a file, and those that read it, when typing rests."""
        waiting = self._waiting.pop(document.path, None)
        if waiting is not None:
            waiting.cancel()
        loop = asyncio.get_running_loop()
        self._waiting[document.path] = loop.call_later(REST, self._begin, document.path)

    def _begin(self, path: Path) -> None:
        self._waiting.pop(path, None)
        task = asyncio.get_running_loop().create_task(self._check(path))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _check(self, path: Path) -> None:
        for document in self.documents.readers(path):
            try:
                checked = await asyncio.to_thread(self.documents.check, document)
            except OptlangError as error:
                self.window_show_message(types.ShowMessageParams(types.MessageType.Error, error.message))
                continue
            # While that ran the text may have become another one, which is checked in its turn.
            if self.documents.open.get(document.path) is document and checked.text == document.text:
                self._report(document, checked.loaded.diagnostics, checked.loaded.texts)

    def _report(self, document: Document, found: Sequence[Diagnostic], texts: dict[str, str]) -> None:
        reported: dict[str, list[types.Diagnostic]] = {self.uri(document.path): []}
        for item in found:
            span, _ = placed(item, document.shown)
            path = self.documents.path_of(span.file)
            # What is wrong in another open file is reported when that is checked.
            if span.file == document.shown or path not in self.documents.open:
                reported.setdefault(self.uri(path), []).append(self._diagnostic(item, document, texts))
        for gone in self._reported[document.path] - reported.keys():
            reported[gone] = []
        self._reported[document.path] = {uri for uri, items in reported.items() if items}
        for uri, items in reported.items():
            self.text_document_publish_diagnostics(types.PublishDiagnosticsParams(uri, items))

    def _diagnostic(self, item: Diagnostic, document: Document, texts: dict[str, str]) -> types.Diagnostic:
        span, others = placed(item, document.shown)
        text = item.message + (f": {item.primary.text}" if item.primary.text else "")
        unused = item.code == "W208"
        return types.Diagnostic(
            range=self.location(span, texts).range,
            message=text + (f"\nhelp: {item.help}" if item.help else ""),
            severity=types.DiagnosticSeverity.Error if item.severity == "error" else types.DiagnosticSeverity.Warning,
            code=item.code,
            source="optlang",
            tags=[types.DiagnosticTag.Unnecessary] if unused else None,
            related_information=[
                types.DiagnosticRelatedInformation(self.location(label.span, texts), label.text or item.message)
                for label in others
            ],
        )

    def closed(self, document: Document) -> None:
        """Forget a file, and withdraw the problems of it and of others that were found for it."""
        waiting = self._waiting.pop(document.path, None)
        if waiting is not None:
            waiting.cancel()
        self.documents.open.pop(document.path, None)
        for uri in self._reported.pop(document.path, set()) | {self.uri(document.path)}:
            self.text_document_publish_diagnostics(types.PublishDiagnosticsParams(uri, []))
        self._uris.pop(document.path, None)
        for other in self.documents.readers(document.path):
            self.changed(other)

    # ---- answers

    def items(self, document: Document, offset: int) -> list[types.CompletionItem]:
        """What may be written at an offset."""
        around, offers = self.documents.offers(document, offset)
        self._offered = {offer.label: (document, offer) for offer in offers}
        place = _range(document.positions, Span(document.shown, around.start, around.end))
        return [
            types.CompletionItem(
                label=offer.label, kind=_KINDS[offer.sort], detail=offer.detail or None,
                documentation=offer.help or None, sort_text=f"{index:05}",
                text_edit=types.TextEdit(place, offer.label),
            )
            for index, offer in enumerate(offers)
        ]

    def resolved(self, item: types.CompletionItem) -> types.CompletionItem:
        """An item of the last list, with all that is known of it."""
        known = self._offered.get(item.label)
        if known is not None:
            item.documentation = _markdown(self.documents.help(*known))
        return item

    def hover(self, document: Document, offset: int) -> types.Hover | None:
        """What the word at an offset is."""
        found = self.documents.described(document, offset)
        return types.Hover(_markdown(found[1]), _range(document.positions, found[0])) if found is not None else None

    def actions(self, document: Document, first: int, last: int) -> list[types.CodeAction]:
        """The fixes that problems between two offsets carry, and all of the file's together."""
        loaded = self.documents.current(document).loaded
        made = []
        for item in loaded.diagnostics:
            fix, span = item.fix, placed(item, document.shown)[0]
            if fix is None or fix.span.file != document.shown or span.start > last or span.end < first:
                continue
            made.append(types.CodeAction(
                _title(fix, document.text), types.CodeActionKind.QuickFix,
                [self._diagnostic(item, document, loaded.texts)], is_preferred=True, edit=self.edit(document, [fix]),
            ))
        fixes = self.documents.fixes(document)
        if fixes:
            edit = self.edit(document, fixes)
            made.append(types.CodeAction("fix all that can only be a slip", _FIX_ALL, edit=edit))
        return made


def _markdown(text: str) -> types.MarkupContent:
    return types.MarkupContent(types.MarkupKind.Markdown, text)


def _range(positions: Positions, span: Span) -> types.Range:
    return types.Range(types.Position(*positions.at(span.start)), types.Position(*positions.at(span.end)))


def _within(kind: object, wanted: object) -> bool:
    """Whether a kind of action is the wanted one, or a kind of it."""
    one, other = (str(getattr(item, "value", item)) for item in (kind, wanted))
    return one == other or one.startswith(f"{other}.")


def _title(fix: Fix, text: str) -> str:
    before, after = text[fix.span.start : fix.span.end].strip(), fix.replacement.strip()
    if before and after:
        return f"write `{after}` for `{before}`"
    return f"insert `{after}`" if after else f"take `{before}` away" if before else "take the space away"


def made() -> Server:
    """A server with its answers to everything that it is asked."""
    server = Server()
    _follow(server)
    _answer(server)
    _edit(server)

    @server.feature(types.SHUTDOWN)
    def end(*_: object) -> None:
        server.ended = True

    return server


def _follow(server: Server) -> None:
    """Check the files that the editor opens and changes."""

    @server.feature(types.TEXT_DOCUMENT_DID_OPEN)
    def opened(params: types.DidOpenTextDocumentParams) -> None:
        server.changed(server.document(params.text_document.uri))

    @server.feature(types.TEXT_DOCUMENT_DID_CHANGE)
    def changed(params: types.DidChangeTextDocumentParams) -> None:
        server.changed(server.document(params.text_document.uri))

    @server.feature(types.TEXT_DOCUMENT_DID_SAVE)
    def saved(params: types.DidSaveTextDocumentParams) -> None:
        server.changed(server.document(params.text_document.uri))

    @server.feature(types.INITIALIZED)
    def began(_: types.InitializedParams) -> None:
        workspace = server.client_capabilities.workspace
        watching = workspace.did_change_watched_files if workspace is not None else None
        if watching is not None and watching.dynamic_registration:
            # Studies read modules and Python that no editor has open.
            watched = types.DidChangeWatchedFilesRegistrationOptions([types.FileSystemWatcher("**/*.{opt,py}")])
            registration = types.Registration("files", types.WORKSPACE_DID_CHANGE_WATCHED_FILES, watched)
            server.client_register_capability(types.RegistrationParams([registration]))

    @server.feature(types.WORKSPACE_DID_CHANGE_WATCHED_FILES)
    def touched(_: types.DidChangeWatchedFilesParams) -> None:
        for document in list(server.documents.open.values()):
            server.changed(document)

    @server.feature(types.TEXT_DOCUMENT_DID_CLOSE)
    def closed(params: types.DidCloseTextDocumentParams) -> None:
        path = next((path for path, uri in server._uris.items() if uri == params.text_document.uri), None)
        if path is not None and path in server.documents.open:
            server.closed(server.documents.open[path])


def _answer(server: Server) -> None:
    """Say what stands, and what may be written, at a position."""

    @server.feature(
        types.TEXT_DOCUMENT_COMPLETION,
        types.CompletionOptions(trigger_characters=[".", "=", "{", ":"], resolve_provider=True),
    )
    def complete(params: types.CompletionParams) -> types.CompletionList:
        return types.CompletionList(is_incomplete=False, items=server.items(*server.at(params)))

    @server.feature(types.COMPLETION_ITEM_RESOLVE)
    def resolve(item: types.CompletionItem) -> types.CompletionItem:
        return server.resolved(item)

    @server.feature(types.TEXT_DOCUMENT_HOVER)
    def hover(params: types.HoverParams) -> types.Hover | None:
        return server.hover(*server.at(params))

    @server.feature(types.TEXT_DOCUMENT_DEFINITION)
    def define(params: types.DefinitionParams) -> types.Location | None:
        document, offset = server.at(params)
        span = server.documents.definition(document, offset)
        return server.location(span, server.documents.current(document).loaded.texts) if span is not None else None

    @server.feature(types.TEXT_DOCUMENT_REFERENCES)
    def refer(params: types.ReferenceParams) -> list[types.Location]:
        document, offset = server.at(params)
        texts = server.documents.current(document).loaded.texts
        return [server.location(span, texts) for span in server.documents.occurrences(document, offset)]


def _edit(server: Server) -> None:
    """Lay out, fix and rename."""

    @server.feature(types.TEXT_DOCUMENT_FORMATTING)
    def lay_out(params: types.DocumentFormattingParams) -> list[types.TextEdit] | None:
        document = server.document(params.text_document.uri)
        text = server.documents.laid_out(document)
        if text is None or text == document.text:
            return None if text is None else []
        return [types.TextEdit(_range(document.positions, Span(document.shown, 0, len(document.text))), text)]

    @server.feature(
        types.TEXT_DOCUMENT_CODE_ACTION,
        types.CodeActionOptions(code_action_kinds=[types.CodeActionKind.QuickFix, _FIX_ALL]),
    )
    def fix(params: types.CodeActionParams) -> list[types.CodeAction]:
        document = server.document(params.text_document.uri)
        first, last = (
            document.positions.offset(place.line, place.character) for place in (params.range.start, params.range.end)
        )
        only = params.context.only
        found = server.actions(document, first, last)
        return found if only is None else [item for item in found if any(_within(item.kind, kind) for kind in only)]

    @server.feature(types.TEXT_DOCUMENT_PREPARE_RENAME)
    def may_rename(params: types.PrepareRenameParams) -> types.PrepareRenamePlaceholder | None:
        document, offset = server.at(params)
        span = server.documents.label(document, offset)
        if span is None:
            return None
        return types.PrepareRenamePlaceholder(
            range=_range(document.positions, span), placeholder=document.text[span.start : span.end]
        )

    @server.feature(types.TEXT_DOCUMENT_RENAME, types.RenameOptions(prepare_provider=True))
    def rename(params: types.RenameParams) -> types.WorkspaceEdit:
        document, offset = server.at(params)
        try:
            return server.edit(document, server.documents.rename(document, offset, params.new_name))
        except OptlangError as error:
            text = error.message + (f" ({error.help})" if error.help else "")
            raise JsonRpcException(text, REQUEST_FAILED) from error


def serve() -> bool:
    """Answer one editor over standard input and output until it ends; whether it announced that."""
    server = made()
    server.start_io()
    return server.ended
