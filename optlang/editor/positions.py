"""Characters of a text to the lines and columns of an editor, which counts in UTF-16, and back."""

from __future__ import annotations

from optlang.diagnostics.model import Lines

_WIDTH = {"utf-8": 1, "utf-16": 2, "utf-32": 4}
_CODEC = {"utf-8": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}


class Positions:
    """Lines and columns of one text. Lines and columns are from 0; columns are in units of `encoding`."""

    def __init__(self, text: str, encoding: str = "utf-16") -> None:
        self.text = text
        self._lines = Lines(text)
        self._codec, self._width = _CODEC[encoding], _WIDTH[encoding]

    def at(self, offset: int) -> tuple[int, int]:
        """The line and the column of the character at `offset`."""
        line, column = self._lines.at(min(offset, len(self.text)))
        start = self._lines.start(line)
        before = self.text[start : start + column - 1]
        return line - 1, column - 1 if before.isascii() else self._units(before)

    def offset(self, line: int, column: int) -> int:
        """The offset of a line and column; what lies beyond the end of a line, or of the text, is its end."""
        if line >= len(self._lines):
            return len(self.text)
        start, text = self._lines.start(line + 1), self._lines.line(line + 1)
        if text.isascii():
            return start + min(column, len(text))
        units = 0
        for index, character in enumerate(text):
            units += self._units(character)
            if units > column:
                return start + index
        return start + len(text)

    def _units(self, text: str) -> int:
        return len(text.encode(self._codec, "surrogatepass")) // self._width
