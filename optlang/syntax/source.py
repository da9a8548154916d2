"""The text of one file, as characters, with the name that it is shown under. Knows bytes and sizes, no tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from optlang.diagnostics import Diagnostics, Lines, Span

LARGEST = 1024 * 1024
"""How many bytes a file may have; the largest study that anybody wrote by hand is a hundredth of it."""


@dataclass(frozen=True)
class Source:
    """A file's text without its byte order mark; spans are offsets into `text`, and `file` is how messages call it."""

    file: str
    text: str

    @cached_property
    def lines(self) -> Lines:
        """Offsets to lines and columns."""
        return Lines(self.text)

    def span(self, start: int, end: int) -> Span:
        """The stretch of this text from `start` to before `end`."""
        return Span(self.file, start, end)


def decode(file: str, data: bytes, diagnostics: Diagnostics) -> Source:
    """The text of `data`, which must be UTF-8 (with or without a byte order mark) and not too large; else E105.

    A file that is not UTF-8 comes with its bad bytes replaced, fit to be shown and nothing else.
    """
    if len(data) > LARGEST:
        diagnostics.error(
            "E105", f"the file is too large: {len(data):,} bytes, where {LARGEST:,} are allowed", Span(file, 0, 0),
            help="split it: what several studies share goes into a module of its own, and `import` reads it",
        )
        return Source(file, "")
    try:
        return Source(file, data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        # The codec may count from behind the byte order mark; the bytes that it was given say where.
        body = bytes(error.object)
        text = data.decode("utf-8-sig", "replace")
        start = len(body[: error.start].decode("utf-8"))
        diagnostics.error(
            "E105", "the file is not UTF-8", Span(file, start, start + 1),
            f"the byte 0x{body[error.start]:02x} stands for no character here",
            help="save the file as UTF-8",
        )
        return Source(file, text)
