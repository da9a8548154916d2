"""The text of one file, as characters, with the name that it is shown under."""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from optlang.diagnostics.model import Diagnostics, Lines, Span

LARGEST = 1024 * 1024
"""How many bytes a file may have; the largest study that anybody wrote by hand is a hundredth of it."""

LONGEST = 20_000
"""How many characters a line may have: a longer one is no text that a person wrote, and costs memory to match."""

# Characters that show something else than what is read: controls, and those that turn the direction of the text
# (Boucher and Anderson 2021, "Trojan Source").
_HIDING = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]|\r(?!\n)")


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


def read(path: Path) -> bytes:
    """What the file at `path` holds, at most one byte more than may be; raises OSError for what is no file.

    A pipe or a device is none: it may never end, or never begin.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(0, "it is no regular file")
    with path.open("rb") as file:
        return file.read(LARGEST + 1)


def decode(file: str, data: bytes, diagnostics: Diagnostics) -> Source:
    """The text of `data`, which must be UTF-8 (with or without a byte order mark) and not too large; else E105.

    A file that is not UTF-8 comes with its bad bytes replaced, fit to be shown and nothing else.
    """
    if len(data) > LARGEST:
        diagnostics.error(
            "E105", f"the file is too large: more than {LARGEST:,} bytes", Span(file, 0, 0),
            help="split it: what several studies share goes into a module of its own, and `import` reads it",
        )
        return Source(file, "")
    try:
        source = Source(file, data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        # The codec may count from behind the byte order mark; the bytes that it was given say where.
        body = bytes(error.object)
        text = data.decode("utf-8-sig", "replace")
        start = len(body[: error.start].decode("utf-8"))
        diagnostics.error(
            "E105", "the file is not UTF-8", Span(file, start, start + 1),
            f"the byte 0x{body[error.start]:02x} stands for no character here", help="save the file as UTF-8",
        )
        return Source(file, text)
    _readable(source, diagnostics)
    return source


def _readable(source: Source, diagnostics: Diagnostics) -> None:
    """E105 for lines that are too long, and for the first character that does not show what it does."""
    hiding = _HIDING.search(source.text)
    if hiding is not None:
        at = hiding.start()
        lone = hiding[0] == "\r"
        diagnostics.error(
            "E105",
            "a carriage return alone ends no line" if lone else f"the character U+{ord(hiding[0]):04X} cannot be seen",
            source.span(at, at + 1), "what follows is read as the same line" if lone else "it hides what is read",
            help="save the file with line feeds" if lone else "take it out; in a text, `\\n` and `\\t` are written so",
        )
    start = 0
    while start < len(source.text):
        end = source.text.find("\n", start)
        end = end if end >= 0 else len(source.text)
        if end - start > LONGEST:
            diagnostics.error(
                "E105", f"this line has {end - start:,} characters, where {LONGEST:,} are allowed",
                source.span(start, start),
                help="break it: inside brackets, and behind a comma or a sign, a line may end",
            )
            return
        start = end + 1
