"""Draws what `optlang front` and `optlang tradeoffs` print as pictures for the README.

    optlang run studies/digits.opt && python benchmarks/picture.py
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from rich.console import Console
from rich.text import Text

from optlang.report.front import load_front
from optlang.report.front_table import render_front
from optlang.report.tradeoffs import load_tradeoffs, render_tradeoffs
from optlang.store.reader import connect

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"

# Rich's own template fetches a font from the web; a picture in a repository should need nothing.
TEMPLATE = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: {char_height}px;
  line-height: {line_height}px; font-variant-east-asian: full-width; }}
.{unique_id}-title {{ font-size: 16px; font-family: sans-serif; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g>
</g>
</svg>
"""


def draw(text: str, title: str, path: Path, width: int) -> None:
    """Write terminal text (with its colors) as an SVG of a terminal window."""
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(text.rstrip("\n")))
    console.save_svg(str(path), title=title, code_format=TEMPLATE, unique_id=path.stem)


def main() -> None:
    """Read the database and write the pictures."""
    parser = argparse.ArgumentParser(description="Draw the results of studies/digits.opt.")
    parser.add_argument("--db", type=Path, default=Path("optlang.duckdb"))
    parser.add_argument("--width", type=int, default=196)
    arguments = parser.parse_args()
    IMAGES.mkdir(parents=True, exist_ok=True)
    with connect([arguments.db]) as reader:
        front = render_front(load_front(reader, "digits"), width=arguments.width, color=True)
        draw(front, "optlang run studies/digits.opt", IMAGES / "front.svg", arguments.width)
        alone = render_tradeoffs(load_tradeoffs(reader, "digits"), width=arguments.width, color=True)
        draw(alone, "optlang tradeoffs", IMAGES / "tradeoffs.svg", 110)


if __name__ == "__main__":
    main()
