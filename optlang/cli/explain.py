"""The command `explain`: the meaning of a name of the language, or of a code."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from optlang.cli.exits import usage


def explain(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="For example E201, static, onnxruntime, latency, tpe.")
    ] = None,
) -> int:
    """Explain a code, technique, runtime, metric, sampler or setting; without a name, list them all."""
    from optlang.report.explain import explained, listing, suggestion

    page = explained(name) if name is not None else listing()
    if page is None:
        raise usage(f"nothing is called {name}", suggestion(str(name)))
    sys.stdout.write(page)
    return 0
