"""The commands `device …`: what the other machine of a target has, and what is missing there."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optlang.cli.check import plan_of
from optlang.cli.examination import declared
from optlang.cli.exits import OUTSIDE, usage
from optlang.cli.options import Page, PageFormat, Sets

if TYPE_CHECKING:
    from optlang.run.device_check import Checked

app = typer.Typer(no_args_is_help=True, help="Look at the machines that targets with `device = ssh(…)` measure on.")

_MARKS = {"ok": "", "warning": "!", "missing": "✗"}


@app.command()
def check(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A target of STUDY; without it, an ssh address.")],
    study: Annotated[Path | None, typer.Argument(metavar="[STUDY]", help="The study's file.")] = None,
    sets: Sets = None,
    format: Page = PageFormat.text,
) -> int:
    """Say what is missing on a device before anything runs: keys, Python, packages, space, clock."""
    found, whole = _of_study(target, study, sets) if study is not None else _of_address(target)
    if format is PageFormat.json:
        sys.stdout.write(_json(found))
    else:
        sys.stdout.write(page(found, whole))
    return 0 if whole else OUTSIDE


def _of_study(name: str, file: Path, sets: list[str] | None) -> tuple[Checked, bool]:
    from optlang.run.device_check import check_target, named

    plan, _ = plan_of(file, sets)
    target = next((item for item in plan.targets if item.name == name), None)
    if target is None:
        known = ", ".join(item.name for item in plan.targets)
        raise usage(f"the study has no target {name}", f"its targets are: {known}")
    if target.remote is None:
        raise usage(f"the target {name} is this machine (device = {target.device})", "`optlang doctor` looks at it")
    found = named(check_target(plan, target, file.resolve().parent), target)
    return found, found.ready and not found.unavailable


def _of_address(address: str) -> tuple[Checked, bool]:
    from optlang.analysis.lower.devices import is_address
    from optlang.interfaces import RemoteDevice
    from optlang.run.device_check import check
    from optlang.space.compatibility import ELSEWHERE
    from optlang.workload import imports

    if not is_address("ssh", address):
        raise usage(f"{address} is no address for ssh", "write user@host, or the target and its study")
    runtimes = {
        runtime.name.rpartition(".")[2]: tuple(getattr(imports.find(runtime.calls, Path()), "imports", ()))
        for runtime in declared() if ELSEWHERE["ssh"] in runtime.traits
    }
    found = check(RemoteDevice("ssh", address), runtimes)
    return found, found.ready and len(found.unavailable) < len(runtimes)


def page(found: Checked, whole: bool) -> str:
    """A line for each thing that was looked at, marked where it is not well, with what to do about it."""
    width = max(len(item.about) for item in found.findings)
    lines = [f"{found.device}\n"]
    for item in found.findings:
        lines.append(f"{_MARKS[item.state]:<2}{item.about:<{width}}  {item.said}\n")
        if item.help:
            lines.append(f"    = help: {item.help}\n")
    missing = [item.about for item in found.findings if item.state == "missing"]
    if not missing:
        lines.append("\nNothing is missing.\n")
    elif whole:
        lines.append(f"\nIt can be measured on without {', '.join(missing)}.\n")
    else:
        lines.append(f"\nMissing: {', '.join(missing)}.\n")
    return "".join(lines)


def _json(found: Checked) -> str:
    document = {
        **found.about(), "ready": found.ready, "unavailable": dict(found.unavailable),
        "findings": [dataclasses.asdict(item) for item in found.findings],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
