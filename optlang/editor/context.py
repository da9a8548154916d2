"""Where the cursor stands in a text: the brackets around it and the words of its statement, whatever is wrong there.

Reads tokens, no tree: what is being typed is a mistake as long as it is typed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r'(?P<comment>#[^\n]*)|(?P<text>"(?:\\.|[^"\\\n])*"?)|(?P<word>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)'
    r"|[0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?[A-Za-z%]*|\.\.|[=!<>]=|\n|[^\s\w]|\w"
)
_WORD_BEFORE = re.compile(r"(?:[A-Za-z_]\w*\.)*(?:[A-Za-z_]\w*)?\Z")
_WORD_AFTER = re.compile(r"\w*")
_OPENERS = {"{": "}", "(": ")", "[": "]"}
_GOES_ON = frozenset({
    ",", "=", "in", "..", "when", "because", "and", "or", "not", "+", "-", "*", "/", "==", "!=", "<=", ">=", "<", ">",
})
_MEMBERS = frozenset({"study", "technique", "pipeline", "runtime", "model", "data", "params"})


@dataclass(slots=True)
class Frame:
    """An open bracket, with the words of its statement before it and the names that the statements inside begin with.

    `members` holds of the braces of a study or a declaration, where a comma ends no statement.
    """

    opener: str
    head: list[str]
    members: bool = False
    written: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Cursor:
    """What is around a word: the open brackets, the outermost first, and the words of its statement before it.

    `start` and `end` are where the word stands that the cursor touches, dots before it included; both are the cursor's
    offset where there is none. `after` is the first token behind it on its line. `dead` holds in comments and texts.
    """

    frames: tuple[Frame, ...]
    words: tuple[str, ...]
    start: int
    end: int
    word: str
    after: str
    dead: bool


def around(text: str, offset: int) -> Cursor:
    """The context of the character at `offset`."""
    line = text.rfind("\n", 0, offset) + 1
    before = _WORD_BEFORE.search(text[line:offset])
    start = line + before.start() if before is not None else offset
    after = _WORD_AFTER.match(text, offset)
    end = after.end() if after is not None else offset
    if start > line and text[start - 1].isdigit():
        # The letters behind a number are its unit.
        return Cursor((), (), start, end, text[start:end], "", dead=True)
    frames, words, dead = _read(text, start)
    _finish(frames, text, end)
    following = _TOKEN.match(text, end + len(text[end:]) - len(text[end:].lstrip(" \t")))
    behind = following.group() if following is not None else ""
    return Cursor(tuple(frames), tuple(words), start, end, text[start:end], behind, dead)


def _read(text: str, stop: int) -> tuple[list[Frame], list[str], bool]:
    frames: list[Frame] = []
    words: list[str] = []
    last: re.Match[str] | None = None
    for match in _TOKEN.finditer(text, 0, stop):
        last = match
        sign = match.group()
        if match.lastgroup == "comment":
            continue
        if sign in _OPENERS and match.lastgroup is None:
            members = not frames and bool(words) and words[0] in _MEMBERS and sign == "{"
            frames.append(Frame(sign, words, members))
            words = []
        elif sign in ("}", ")", "]"):
            words = _closed(frames, words, sign)
        elif _ends(sign, frames, words):
            _enter(frames, words)
            words = []
        elif sign != "\n":
            words.append(sign)
    if last is None or last.end() < stop:
        return frames, words, False
    sign = last.group()
    unclosed = last.lastgroup == "text" and (len(sign) == 1 or not sign.endswith('"'))
    return frames, words, last.lastgroup == "comment" or unclosed


def _ends(sign: str, frames: list[Frame], words: list[str]) -> bool:
    if sign == ";":
        return True
    if sign == ",":
        return bool(frames) and not frames[-1].members
    inside = bool(frames) and frames[-1].opener != "{"
    return sign == "\n" and not inside and not (words and words[-1] in _GOES_ON)


def _closed(frames: list[Frame], words: list[str], sign: str) -> list[str]:
    # A closing bracket that nothing opened is left out; one that closes an outer bracket closes those inside too.
    if not any(_OPENERS[frame.opener] == sign for frame in frames):
        return words
    while True:
        frame = frames.pop()
        if _OPENERS[frame.opener] == sign:
            return [*frame.head, frame.opener + sign]


def _enter(frames: list[Frame], words: list[str]) -> None:
    if frames and len(words) > 1 and words[1] in ("=", "in"):
        frames[-1].written.append(words[0])


def _finish(frames: list[Frame], text: str, start: int) -> None:
    """Enter the names that begin statements between the cursor and the end of its bracket."""
    if not frames:
        return
    depth, words = 0, ["…"]
    for match in _TOKEN.finditer(text, start):
        sign = match.group()
        if match.lastgroup == "comment":
            continue
        if sign in _OPENERS and match.lastgroup is None:
            depth += 1
        elif sign in ("}", ")", "]"):
            depth -= 1
            if depth < 0:
                break
        elif depth == 0 and _ends(sign, frames, words):
            _enter(frames, words)
            words = []
        elif depth == 0 and sign != "\n":
            words.append(sign)
    _enter(frames, words)
