"""The command `lsp`, which editors start. Reads texts; runs nothing that a study names, and never imports torch."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from optlang.cli.exits import WRONG
from optlang.interfaces import OutsideError


def lsp() -> int:
    """Answer an editor over standard input and output: the Language Server Protocol."""
    if find_spec("pygls") is None:
        raise OutsideError("the language server needs pygls", help='pip install "optlang-dsl[lsp]"')
    from optlang.editor.server import serve

    if sys.stdin.isatty():
        sys.stderr.write("An editor starts this: it speaks the Language Server Protocol. Ctrl-D ends it.\n")
    return 0 if serve() else WRONG
