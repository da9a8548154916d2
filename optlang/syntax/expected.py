"""What to say where a token does not fit: which words and signs would, as a reader of the language calls them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from optlang.diagnostics.model import Diagnostics, Fix
from optlang.diagnostics.renamed import renamed
from optlang.diagnostics.suggest import closest, slips
from optlang.syntax.habits import advice as advice_of
from optlang.syntax.source import Source
from optlang.syntax.tokens import LINE_END, RESERVED, Token

_SIGNS = {
    "COMMA": "`,`", "EQUAL": "`=`", "COLON": "`:`", "RANGE": "`..`", "LBRACE": "`{`", "RBRACE": "`}`",
    "RPAR": "`)`", "LSQB": "`[`", "RSQB": "`]`", "STRING": "a text", "NUMBER": "a number", "NAME": "a name",
}
_VALUE = frozenset({"NAME", "NUMBER", "QUANTITY", "STRING", "LPAR", "LSQB", "MINUS", "TRUE", "FALSE", "NOT"})
_STATEMENT = frozenset({"MAYBE", "REPEAT", "WHEN"})
_DOMAIN = frozenset({"ANY", "LBRACE"})
# After a value an operator always fits; it is named only where nothing else does.
_OPERATORS = frozenset({"PLUS", "MINUS", "STAR", "SLASH", "COMPARE", "AND", "OR"})
_MANY = 6
_UNITS = frozenset(["ns", "us", "ms", "s", "min", "h", "d", "B", "kB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB"])
# Words that are one letter from a word of the language, and are meant as they are written.
_WORDS = frozenset(["of", "is", "it", "if", "on", "an", "at", "to"])
# Where a setting belongs that is written outside its section.
_SETTINGS = {
    "search": frozenset({
        "sampler", "trials", "timeout", "trial_timeout", "seed", "ladder", "stop_early", "warm_start", "screening",
        "halving", "workers", "disk",
    }),
    "measure": frozenset({"rounds", "processes"}),
    "target": frozenset({"device", "threads", "batch", "dynamic", "shape", "runtime"}),
}


def keywords_like(word: str, keywords: Mapping[str, str], fitting: Iterable[str]) -> list[str]:
    """The terminals among `fitting` of the keywords that `word` may be a slip of; none where two are as near.

    Words of two letters (`as`, `in`, `or`) are given only where one slip makes them: the statement must fit with them.
    """
    kinds = set(fitting)
    known = [text for text, kind in keywords.items() if kind in kinds]
    new = renamed(word, known)
    if new is not None:
        return [keywords[new]]
    if "_" in word:
        return []
    found = closest(word, known)
    if found is None:
        short = [text for text in known if len(text) == 2 and word.lower() not in _WORDS]
        return [keywords[text] for text in short if slips(word.lower(), text) == 1]
    rivals = [text for text in known if slips(word.lower(), text) == slips(word.lower(), found)]
    return [keywords[found]] if len(rivals) == 1 else []


def is_split(number: Token, word: Token) -> bool:
    """Whether a number and its unit stand apart: `10 ms`."""
    return number.type == "NUMBER" and word.type == "NAME" and word.value in _UNITS


def report(
    source: Source, token: Token, previous: Token | None, fitting: Sequence[str], slip: tuple[Token, str] | None,
    joined: Token | None, keywords: Mapping[str, str], diagnostics: Diagnostics, fix: Fix | None,
) -> None:
    """Say that `token` does not fit after `previous`, what would, and what was probably meant (E101).

    `slip` is a misspelt keyword with its terminal, `joined` what stands at the end of the line before and makes this
    one go on with it, `fix` what was surely meant.
    """
    spelling = {kind: text for text, kind in keywords.items()}
    kinds = set(fitting)
    if slip is not None:
        wrong, keyword = slip
        span = source.span(wrong.start_pos, wrong.end_pos)
        meant = spelling[keyword]
        new = renamed(wrong.value, [meant])
        diagnostics.error(
            "E101", f"unexpected `{wrong.value}`", span, "not a word of the language",
            help=f"did you mean `{meant}`?" if new is None else f"it is called `{new}` now", fix=Fix(span, meant),
        )
        return
    if token.type == LINE_END and token.value != ";":
        what = "end of the line" if token.value else "end of the file"
        # The line may end in a comment; the mistake is before it.
        end = previous.end_pos if previous is not None else token.start_pos
        span = source.span(end, end)
    else:
        what, span = f"`{token.value}`", source.span(token.start_pos, token.end_pos)
    label, advice = _fitting(kinds, spelling)
    habit = advice_of(source, token, previous, kinds)
    special = habit.help if habit is not None else _advice(token, previous, kinds)
    fix = habit.fix if habit is not None else fix
    if special is None and joined is not None:
        special = f"the line before ends in `{joined.value}`, so this line goes on with it"
    diagnostics.error("E101", f"unexpected {what}", span, label, help=special or advice, fix=fix)


def _advice(token: Token, previous: Token | None, kinds: set[str]) -> str | None:
    if previous is not None and is_split(previous, token):
        return f"a unit follows its number without a space: `{previous.value}{token.value}`"
    if token.type == "COMPARE" and previous is not None and "AND" in kinds:
        return "two comparisons are joined by `and`: `1 <= x and x <= 3`"
    if token.type == "EQUAL" and "COMPARE" in kinds:
        return "`==` compares, `=` gives a value"
    if token.value == "==" and "EQUAL" in kinds:
        return "`=` gives a value, `==` compares"
    if token.type == "NAME" and token.value == "not" and "IN" in kinds:
        return "write `not (x in {a, b})`"
    if token.type == "NAME" and token.value in RESERVED and "NAME" in kinds and "NUMBER" not in kinds:
        return f"`{token.value}` has a meaning of its own and cannot be a name"
    section = next((name for name, words in _SETTINGS.items() if token.value in words), None)
    if section is not None and section.upper() in kinds:
        return f"`{token.value}` belongs into `{section} {{ … }}`"
    return None


def _fitting(kinds: set[str], spelling: Mapping[str, str]) -> tuple[str, str | None]:
    """The label, and help where there is too much to say for it."""
    rest = set(kinds)
    words: list[str] = []
    if "COMPARE" in rest and "EQUAL" not in rest:
        # Here it is the operator of `x in {a, b}`.
        rest.discard("IN")
    if {"NAME", "NUMBER", "STRING"} <= rest:
        if "MAYBE" in rest:
            words.append("a step, a setting or a value")
            rest -= _STATEMENT
        elif rest >= _DOMAIN:
            words.append("a value or a domain (`{a, b}`, `[1, 2]`, `1 .. 10`, `any`)")
            rest -= _DOMAIN
        else:
            words.append("a value")
        rest -= _VALUE
    else:
        rest.discard("QUANTITY")
    if LINE_END in rest:
        # What closes the block closes the statement too.
        ends = "the end of the statement" if "COMMA" in rest else "the end of the line"
        rest -= {LINE_END, "RBRACE"}
    else:
        ends = ""
    keywords = [kind for kind in spelling if kind in rest - _OPERATORS]
    if len(keywords) >= _MANY:
        listed = ", ".join(f"`{word}`" for word in sorted(spelling[kind] for kind in keywords))
        return "nothing begins like this here", f"here stands one of {listed}"
    first = [kind for kind in ("EQUAL", "IN") if kind in rest]
    others = [kind for kind in keywords if kind not in first] + [kind for kind in _SIGNS if kind in rest - set(first)]
    words += [_SIGNS.get(kind) or f"`{spelling[kind]}`" for kind in first + others]
    if ends:
        words.append(ends)
    if kinds & _OPERATORS and (not words or words == [ends]):
        words.insert(0, "an operator")
    return f"expected {_joined(words)}", None


def _joined(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
