"""The command `list`: what there is of a kind, each with a line of help."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import Annotated

import typer

from optlang.cli.options import Page, PageFormat


class Kind(StrEnum):
    """What is listed."""

    techniques = "techniques"
    pipelines = "pipelines"
    runtimes = "runtimes"
    targets = "targets"
    models = "models"
    data = "data"
    metrics = "metrics"
    samplers = "samplers"


def list_(
    kind: Annotated[Kind | None, typer.Argument(metavar="[KIND]", help=f"One of {', '.join(Kind)}.")] = None,
    format: Page = PageFormat.text,
) -> int:
    """List techniques, pipelines, runtimes, targets, models, data, metrics or samplers, with a line each; or all."""
    from optlang.report.explain import listed, listing, listing_of

    if format is PageFormat.json:
        found = {item.value: listed(item.value) for item in ([kind] if kind else Kind)}
        sys.stdout.write(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(listing_of(kind.value) if kind is not None else listing())
    return 0
