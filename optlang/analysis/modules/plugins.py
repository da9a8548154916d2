"""Modules that installed distributions bring: found by their entry points, of which nothing is imported.

A distribution names its `.opt` file in the group `optlang.modules`, as `module = "package:file.opt"`: the file of that
name in the package's folder. (The form is that of an object reference, so that every build backend takes it.)
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from optlang.diagnostics.model import Diagnostics, Span

GROUP = "optlang.modules"


@dataclass(frozen=True, slots=True)
class PlugIn:
    """One module that a distribution brings; `file` is None where its entry point leads to no file."""

    name: str
    distribution: str
    version: str
    value: str
    file: Path | None


def plugins() -> tuple[PlugIn, ...]:
    """All modules that installed distributions bring, by name and distribution."""
    found = (
        PlugIn(point.name, point.dist.name, point.dist.version, point.value, _file(point.value))
        for point in metadata.entry_points(group=GROUP) if point.dist is not None
    )
    return tuple(sorted(found, key=lambda item: (item.name, item.distribution)))


def claimed(name: str, span: Span, diagnostics: Diagnostics, *, library: bool) -> Path | None:
    """The file of the module `name`; None where no distribution brings it, or with an error.

    E704 where several do, or one and the standard library (`library`: whether that has the name); E203 where the entry
    point leads nowhere.
    """
    brought = [plugin for plugin in plugins() if plugin.name == name]
    claimants = ["the standard library"] * library + [f"`{plugin.distribution}`" for plugin in brought]
    if not brought:
        return None
    if len(claimants) > 1:
        uninstall = brought[-1].distribution
        diagnostics.error(
            "E704", f"the module `{name}` is brought by {' and by '.join(claimants)}", span,
            "which of them is meant is not known", help=f"uninstall one of them: `pip uninstall {uninstall}`",
        )
        return None
    plugin = brought[0]
    if plugin.file is None:
        diagnostics.error(
            "E203", f"`{plugin.distribution}` brings the module `{name}`, and its file is not there", span,
            f'its entry point says "{plugin.value}"',
            help=f"install `{plugin.distribution}` again, or write to its author: the entry point is "
            f'"package:file.opt"',
        )
    return plugin.file


def _file(value: str) -> Path | None:
    package, _, name = value.partition(":")
    if Path(name).suffix != ".opt":
        return None
    for folder in sys.path:
        file = Path(folder or ".").joinpath(*package.split("."), name)
        if file.is_file():
            return file
    return None
