"""Bytes become text, or are refused with a place."""

from __future__ import annotations

import pytest

from optlang.diagnostics.model import Diagnostics
from optlang.syntax.parse import parse_bytes
from optlang.syntax.source import LARGEST, decode


def test_a_byte_order_mark_and_crlf_change_nothing() -> None:
    plain = b"optlang 1\n\nlet half = 50%\nlet both = {\n  1\n  2\n}\n"
    marked = b"\xef\xbb\xbf" + plain.replace(b"\n", b"\r\n")
    one, other = parse_bytes("a", plain), parse_bytes("a", marked)
    assert not other.diagnostics.found
    assert one.file is not None
    assert other.file is not None
    assert len(other.file.items) == len(one.file.items) == 2
    assert other.source.lines.at(other.file.items[0].span.start) == (3, 1)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_bytes_that_are_no_text_are_told_where_they_stand(mark: bytes) -> None:
    found = Diagnostics()
    source = decode("a", mark + "optlang 1\n# größer ".encode() + b"\xff\n", found)
    [problem] = found.found
    assert problem.code == "E105"
    assert source.lines.at(problem.primary.span.start) == (2, 10)
    assert "0xff" in problem.primary.text
    assert source.text[problem.primary.span.start] == "\N{REPLACEMENT CHARACTER}"


def test_a_file_that_is_too_large_is_not_read() -> None:
    parsed = parse_bytes("a", b"#" * (LARGEST + 1))
    assert parsed.file is None
    assert [item.code for item in parsed.diagnostics.found] == ["E105"]
    assert not parse_bytes("a", b"optlang 1\n" + (b"#" * 999 + b"\n") * ((LARGEST - 10) // 1000)).diagnostics.found
