"""The arguments and options that commands share: what they are called, and what `--help` says of them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from optlang.diagnostics.command_line import DEFAULT_DB as DEFAULT_DB


class CheckFormat(StrEnum):
    """How problems are shown."""

    full = "full"
    concise = "concise"
    json = "json"
    github = "github"


class TableFormat(StrEnum):
    """How rows are shown."""

    table = "table"
    csv = "csv"
    json = "json"
    jsonl = "jsonl"
    markdown = "markdown"


class AnswerFormat(StrEnum):
    """How the answer to a question is shown, or written."""

    table = "table"
    csv = "csv"
    json = "json"
    jsonl = "jsonl"
    markdown = "markdown"
    parquet = "parquet"


class PageFormat(StrEnum):
    """How a page is shown."""

    text = "text"
    json = "json"


class Progress(StrEnum):
    """How a run is shown while it goes on."""

    plain = "plain"
    rich = "rich"


Db = Annotated[Path, typer.Option("--db", metavar="PATH", help="The database of results.")]
StudyFile = Annotated[Path, typer.Argument(metavar="FILE", help="A study, for example studies/digits.opt.")]
StudyName = Annotated[
    str | None, typer.Argument(metavar="[STUDY]", help="A study's name or file; the newest one if left out.")
]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Set an input of the study; may be repeated.")
]
Rows = Annotated[TableFormat, typer.Option("--format", help="How the rows are shown.")]
Wide = Annotated[
    bool, typer.Option("--wide", help="Every column, interval and setting, however wide: else as the terminal, or 80.")
]
Page = Annotated[PageFormat, typer.Option("--format", help="Text, or one JSON document.")]
Trials = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="Searched trials in all; baseline and ladder are not counted.")
]
Timeout = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="How long the run may take, for example 10min; enough without --trials."),
]
Seed = Annotated[int | None, typer.Option(min=0, metavar="N", help="Seed of the search and of all training.")]
Workers = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Trials that are trained at the same time on this machine, no cluster."),
]
Shown = Annotated[Progress | None, typer.Option(help="A live view (the default in a terminal), or lines.")]
Ladder = Annotated[
    bool | None,
    typer.Option("--ladder/--no-ladder", help="Stop after each technique was measured alone, or skip that."),
]
Continue = Annotated[bool, typer.Option("--continue", help="Continue the newest run, even if the study has changed.")]
Join = Annotated[
    str | None, typer.Option(
        "--join", metavar="RUN",
        help="Continue the run of this id, even if its study changed; waits for a process that carries it on.",
    ),
]
New = Annotated[bool, typer.Option("--new", help="Start a new run, even if there is one to continue.")]
Home = Annotated[
    Path | None,
    typer.Option(metavar="DIR", envvar="OPTLANG_HOME", help="Cache and artifacts: .optlang next to the database."),
]
