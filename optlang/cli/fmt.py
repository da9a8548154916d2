"""The command `fmt`: formats files. Runs nothing that a study names."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from optlang.cli.check import opt_files, read_or_refuse
from optlang.cli.exits import WRONG, colored, usage
from optlang.plan.quantities import counted


def fmt(
    files: Annotated[list[Path], typer.Argument(
        metavar="FILE...", allow_dash=True, help="Files, folders of them, or - for standard input.",
    )],
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit with 1 if a file would change.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Write nothing; show what would change.")] = False,
) -> int:
    """Give files the one layout; comments, words and meaning stay. Files with errors are left alone."""
    from optlang.diagnostics.render import render
    from optlang.syntax.format import format_text
    from optlang.syntax.parse import parse_bytes
    from optlang.syntax.source import LARGEST

    if Path("-") in files and len(files) > 1:
        raise usage("- stands alone: it reads one text from standard input", "leave it out, or the files")
    through = files == [Path("-")]
    wrong = changed = 0
    paths = files if through else opt_files(files)
    for path in paths:
        shown = "<stdin>" if through else str(path)
        data = sys.stdin.buffer.read(LARGEST + 1) if through else read_or_refuse(path)
        parsed = parse_bytes(shown, data)
        if parsed.file is None or parsed.diagnostics.failed:
            wrong += 1
            text = render(parsed.diagnostics.sorted(), {shown: parsed.source.text}, color=colored(sys.stderr))
            sys.stderr.write(text)
            continue
        laid_out = format_text(parsed).encode()
        changed += laid_out != data
        if diff:
            _show_difference(shown, parsed.source.text, laid_out.decode())
        elif through and not check:
            sys.stdout.buffer.write(laid_out)
        elif laid_out != data:
            sys.stderr.write(f"{'would change' if check else 'changed'} {shown}\n")
            if not check:
                path.write_bytes(laid_out)
    if not through:
        word = "would change" if check or diff else "changed"
        left = f", {wrong} left alone for {'their' if wrong > 1 else 'its'} errors" if wrong else ""
        sys.stderr.write(f"{counted(len(paths), 'file')}: {changed} {word}{left}\n")
    return WRONG if wrong or (changed and (check or diff)) else 0


def _show_difference(shown: str, before: str, after: str) -> None:
    import difflib

    old, new = (re.findall(r"[^\n]*\n|[^\n]+", text) for text in (before, after))
    for row in difflib.unified_diff(old, new, shown, shown):
        sys.stdout.write(row if row.endswith("\n") else f"{row}\n\\ No newline at end of file\n")
