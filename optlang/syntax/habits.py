"""Spellings of other languages, with what is written here: `if`, `for`, `steps:`, `minimize: size`, `accuracy drop`."""

from __future__ import annotations

from dataclasses import dataclass

from optlang.diagnostics.model import Fix
from optlang.syntax.source import Source
from optlang.syntax.tokens import Token, spaced

_WHEN = "a condition stands behind `when`: `when CONDITION { … }`, or `STEP when CONDITION`"
_REPEAT = "steps are repeated by `repeat NAME = 3 { … }`, and `repeat NAME in 1 .. 3 { … }` searches how often"
_ELSE = "there is no `else`: write `when not (CONDITION) { … }`, or a choice, `NAME in { …; … }`"
_WORDS = {
    "if": _WHEN, "unless": "the opposite of a condition is `when not (CONDITION) { … }`",
    "for": _REPEAT, "foreach": _REPEAT, "while": _REPEAT, "until": _REPEAT, "loop": _REPEAT, "times": _REPEAT,
    "else": _ELSE, "elif": _ELSE, "elseif": _ELSE,
    "switch": "a choice lists its branches: `NAME in { …; … }`",
    "choose": "a choice lists its branches: `NAME in { …; … }`",
    "optional": "`maybe STEP` is in or out",
    "def": 'a pipeline of your own: `pipeline NAME { steps { … } }`',
}
_BLOCKS = ("steps", "baseline", "search", "measure")
_GOALS = ("minimize", "maximize")
_RULES = ("require", "forbid", "when")
_NAMED = {
    "study": "study NAME { … }",
    "model": "model NAME = FACTORY(…)",
    "data": "data NAME = FACTORY(…)",
    "target": "target NAME { runtime = onnxruntime }",
    "metric": "metric NAME: ratio maximize",
    "input": "input NAME: int = 5",
    "let": "let NAME = VALUE",
    "param": "param NAME: int = 5",
    "params": "params NAME { … }",
}
_LESS = frozenset({"drop", "drops", "loss", "decrease", "degradation", "reduction"})
_COMPARED = {
    "is": "==", "equals": "==", "equal": "==", "least": ">=", "most": "<=", "above": ">",
    "over": ">", "more": ">", "greater": ">", "below": "<", "under": "<", "less": "<", "than": "<` or `>",
}


@dataclass(frozen=True, slots=True)
class Advice:
    """What is written here, and the fix where nothing else can be meant."""

    help: str
    fix: Fix | None = None


def advice(source: Source, token: Token, previous: Token | None, kinds: set[str]) -> Advice | None:
    """The advice for a token that another language would have here, None where none has it.

    `kinds` are the terminals that would fit instead.
    """
    word = previous.value if previous is not None and previous.type == "NAME" else ""
    before = previous if word else None
    found = _of_word(source, token, before, kinds)
    if found is None and before is not None and token.value in (":", "="):
        found = _sign(source, token, before)
    if found is None and before is not None and word in _GOALS and token.value in ("(", "["):
        found = Advice(f"metrics follow without brackets: `{word} latency, size`")
    if found is None and before is not None and word == "repeat":
        count = source.text[token.start_pos :].partition("\n")[0].partition("{")[0].strip()
        written = f"in {count.removeprefix('in ')}" if ".." in count else f"= {count if count.isdigit() else 3}"
        found = Advice(f"a repetition has a name: `repeat NAME {written} {{ … }}`")
    return found or _comparison(token, previous, kinds)


def _of_word(source: Source, token: Token, before: Token | None, kinds: set[str]) -> Advice | None:
    """A word that begins a statement elsewhere: the token itself, or the one before it."""
    if token.type == "NAME" and token.value in _WORDS and not (before is not None and before.value in _WORDS):
        behind = token.value == "if" and "WHEN" in kinds
        return Advice(_WORDS[token.value], _written(source, token, "when") if behind else None)
    if before is None or before.value not in _WORDS or token.value in ("=", ":"):
        return None
    return Advice(_WORDS[before.value], _written(source, before, "when") if before.value == "if" else None)


def _sign(source: Source, token: Token, before: Token) -> Advice | None:
    """`steps:`, `minimize: size`, `model: …`: a sign behind a word that has none."""
    word = before.value
    if word in _NAMED:
        return Advice(f"write `{_NAMED[word]}`")
    if word not in (*_BLOCKS, *_GOALS, *_RULES):
        return None
    rest = source.text[token.end_pos :].partition("\n")[0].strip()
    shown = f"{word} {{ … }}" if word in _BLOCKS else f"{word} {rest or '…'}"
    opens = rest[:1] == "{" if word in _BLOCKS else rest[:1].isalpha()
    blank = "" if source.text[token.end_pos : token.end_pos + 1].isspace() else " "
    fix = Fix(source.span(before.end_pos, token.end_pos), blank) if opens else None
    return Advice(f"write `{shown}`, without `{token.value}`", fix)


def _comparison(token: Token, previous: Token | None, kinds: set[str]) -> Advice | None:
    """Words in a condition: `accuracy drop <= 1%`, `size at most 2MB`, `50% of baseline`."""
    if token.type != "NAME" or previous is None or "AND" not in kinds:
        return None
    if token.value in _LESS or previous.value in _LESS or token.value == "within":
        metric = token.value if previous.value in _LESS else previous.value
        return Advice(f"a loss is a comparison with the baseline: `{metric} >= baseline.{metric} - 1%`")
    if token.value == "of":
        return Advice("a share of the baseline is a product: `0.5 * baseline.size`")
    if token.value == "at":
        return Advice("`<=` is at most, `>=` at least")
    if token.value in _COMPARED:
        return Advice(f"write `{_COMPARED[token.value]}`")
    return None


def _written(source: Source, token: Token, word: str) -> Fix:
    span = source.span(token.start_pos, token.end_pos)
    return Fix(span, spaced(word, source.text, span.start, span.end))
