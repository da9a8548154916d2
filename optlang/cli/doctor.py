"""The command `doctor`: the examination of this installation and this machine, as a page for people or as JSON."""

from __future__ import annotations

import sys

from optlang.cli.examination import DiskUsage, Examination, examine
from optlang.cli.exits import OUTSIDE
from optlang.cli.options import DEFAULT_DB, Db, Home, Page, PageFormat
from optlang.plan.quantities import in_bytes


def doctor(db: Db = DEFAULT_DB, home: Home = None, format: Page = PageFormat.text) -> int:
    """Show what can run here and what to install: runtimes, packages, processor, cache, disk. Imports none of them."""
    found = examine(db, home)
    sys.stdout.write(found.json() if format is PageFormat.json else page(found))
    return OUTSIDE if found.problems else 0


def page(found: Examination) -> str:
    """What `optlang doctor` prints: a line a fact, what is wrong last."""
    about = found.machine
    memory = about["memory"]
    sections: list[tuple[str, list[tuple[str, ...]]]] = [
        ("Runtimes", [
            (item.name, item.status,
             item.reason or item.unrun or ", ".join(f"{name} {version}" for name, version in item.packages.items()))
            for item in found.runtimes
        ]),
        ("Modules", [
            (item.name, f"{item.distribution} {item.version}", item.file or "its file is not there")
            for item in found.modules
        ]),
        ("Machine", [
            ("processor", str(about["processor"])),
            ("int8", _int8(found)),
            ("bfloat16", _bfloat16(found)),
            ("cores", f"{about['cores']} for this process"),
            ("memory", in_bytes(memory) if isinstance(memory, int) else "unknown"),
            ("GPU", _gpu(found)),
            ("C++ compiler", found.compiler or "none: torch.compile needs g++, or the compiler that CXX names"),
            ("measuring", "a run measures now: others wait for their turn" if found.measuring else "nothing now"),
        ]),
        ("Files", [
            ("database", _usage(found.database) + (f", process {found.writer} writes to it" if found.writer else "")),
            ("cache", _usage(found.cache)),
            ("artifacts", _usage(found.artifacts)),
            ("free", f"{in_bytes(found.free)} on that disk"),
        ]),
    ]
    title = f"optlang {found.optlang or 'from a folder, not installed'}, Python {about['python']}, {about['system']}\n"
    parts = [title, *(f"{name}\n{_columns(rows)}" for name, rows in sections if rows)]
    for name, faults in (("Warnings", found.warnings), ("Problems", found.problems)):
        if faults:
            parts.append(f"{name}\n" + "".join(f"  {item.message}\n    = help: {item.help}\n" for item in faults))
    if found.packages and all(item.fits for item in found.packages):
        parts.append(f"All {len(found.packages)} packages that optlang needs are installed.\n")
    return "\n".join(parts)


def _columns(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]) - 1)]
    return "".join(
        "  " + "".join(f"{cell:<{width}}  " for cell, width in zip(row, widths, strict=False)) + row[-1] + "\n"
        for row in rows
    )


def _gpu(found: Examination) -> str:
    """The GPUs, and whether torch trains and runs on them."""
    if found.gpu_missing is None:
        return "; ".join(found.gpus) or "one that torch computes on"
    return "; ".join((*found.gpus, f"torch computes on none: {found.gpu_missing}"))


def _int8(found: Examination) -> str:
    if found.instructions is None:
        known = "the system does not say which instructions it has"
    else:
        known = ", ".join(found.instructions.int8) or "no instructions of its own"
    return f"{known}; a bit of the weights stays unused, since sums would overflow" if found.overflows else known


def _bfloat16(found: Examination) -> str:
    if found.instructions is None:
        return "the system does not say which instructions it has"
    return ", ".join(found.instructions.bfloat16) or "no instructions of its own: no faster than float32"


def _usage(found: DiskUsage) -> str:
    if found.bytes is None:
        return f"{found.path}, nothing there yet"
    return f"{found.path}, {'' if found.whole else 'more than '}{in_bytes(found.bytes)}"
