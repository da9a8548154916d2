"""The commands about texts: check, fmt and plan. None of them runs anything that a study names, nor imports torch."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optlang.cli.exits import WRONG, colored, counted, usage
from optlang.cli.options import DEFAULT_DB, CheckFormat, Db, Sets, StudyFile

if TYPE_CHECKING:
    from optlang.plan.model import Plan


def _overrides(sets: list[str] | None) -> dict[str, str]:
    found = {}
    for item in sets or ():
        name, equal, value = item.partition("=")
        if not equal or not name:
            raise usage(f"--set {item}: a name, `=` and a value belong together", "for example --set epochs=5")
        found[name.strip()] = value.strip()
    return found


def plan_of(file: Path, sets: list[str] | None = None) -> tuple[Plan, str]:
    """The plan of a study and the text that it was read from, which may change in the file at any time.

    Raises StudyError with all of its problems. Warnings are shown.
    """
    from optlang.analysis.modules.load import load
    from optlang.diagnostics.model import StudyError
    from optlang.diagnostics.render import render

    if not _exists(file) or not file.is_file():
        raise usage(f"there is no file {file}", "name a study, for example studies/digits.opt")
    loaded = load(file, _overrides(sets))
    if loaded.failed:
        raise StudyError(loaded.diagnostics, dict(loaded.texts))
    if loaded.plan is None:
        raise usage(f"{file} declares no study", "a study begins with `study NAME {`; modules are checked, not run")
    if loaded.diagnostics:
        sys.stderr.write(render(loaded.diagnostics, loaded.texts, color=colored(sys.stderr)))
    return loaded.plan, loaded.parsed.source.text


def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Studies, modules, folders of them.")],
    format: Annotated[CheckFormat, typer.Option(help="How problems are shown.")] = CheckFormat.full,
    fix: Annotated[bool, typer.Option("--fix", help="Fix what can only be a slip, then check again.")] = False,
) -> int:
    """Find every problem of studies and modules; runs none of their code."""
    from optlang.analysis.modules.load import load
    from optlang.diagnostics.render import render

    files = opt_files(files)
    fixed = _fixed(files) if fix else 0
    found: list[Any] = []
    texts: dict[str, str] = {}
    for file in files:
        loaded = load(file)
        found += loaded.diagnostics
        texts |= loaded.texts
    found = list(dict.fromkeys(found))
    sys.stdout.write(render(found, texts, format.value, color=colored(sys.stdout)))
    errors = sum(item.severity == "error" for item in found)
    if format is CheckFormat.full:
        warnings = len(found) - errors
        said = [counted(count, word) for count, word in ((errors, "error"), (warnings, "warning")) if count]
        could = sum(item.fix is not None for item in found) if not fix else 0
        more = f", {could} fixable with `--fix`" if could else f", {fixed} fixed" if fixed else ""
        sys.stderr.write(f"{counted(len(files), 'file')} checked: {' and '.join(said) or 'no problems'}{more}\n")
    return WRONG if errors else 0


def _fixed(files: Sequence[Path]) -> int:
    from optlang.diagnostics.fixes import mend

    return sum(mend(file) for file in files)


def opt_files(paths: Sequence[Path]) -> list[Path]:
    """The files among `paths`, and for each folder the .opt files below it, apart from what lies in hidden folders."""
    missing = [str(path) for path in paths if not _exists(path)]
    if missing:
        raise usage(f"there is no file {', '.join(missing)}", "name one or more .opt files, or folders of them")
    found: list[Path] = []
    for path in paths:
        below = [path] if not path.is_dir() else sorted(
            file for file in path.rglob("*.opt")
            if file.is_file() and not any(part[0] == "." for part in file.relative_to(path).parts)
        )
        if not below:
            raise usage(f"no .opt file lies in {path}", "name another folder, or a file")
        found += below
    return list(dict.fromkeys(found))


def read_or_refuse(path: Path) -> bytes:
    """What a file holds; raises OutsideError where it cannot be read."""
    from optlang.interfaces import OutsideError
    from optlang.syntax.source import read

    try:
        return read(path)
    except OSError as error:
        raise OutsideError(
            f"cannot read {path}: {error.strerror or error}", help="give the path of an .opt file"
        ) from error


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        # No file can have such a name.
        return False


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


def plan(
    file: StudyFile,
    json: Annotated[bool, typer.Option("--json", help="The plan as JSON.")] = False,
    dot: Annotated[bool, typer.Option("--dot", help="The pipeline with its knobs as a picture, for Graphviz.")] = False,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="The same picture as a Mermaid flowchart.")] = False,
    set_: Sets = None,
    db: Db = DEFAULT_DB,
) -> int:
    """Show what a study would do: knobs, pipeline, size of the space, what a trial consists of. Runs nothing."""
    from optlang.report.plan.describe import describe, text
    from optlang.search.ablation import rungs
    from optlang.space.space import Space

    if json + dot + mermaid > 1:
        raise usage("--json, --dot and --mermaid exclude each other", "ask once for each")
    study, _ = plan_of(file, set_)
    if json:
        sys.stdout.write(study.model_dump_json(indent=2) + "\n")
        return 0
    if dot or mermaid:
        from optlang.report.plan import diagram

        drawn = diagram.picture(study)
        sys.stdout.write(diagram.dot(drawn) if dot else diagram.mermaid(drawn))
        return 0
    space = Space(study)
    ladder = len(list(rungs(study, space, {}))) if study.search.ladder else 0
    sys.stdout.write(text(describe(study, space.size(), ladder)))
    sys.stdout.writelines(f"{line}\n" for line in _refused(study, file, db))
    seconds = _seconds_a_trial(study.study, db)
    if seconds is not None:
        from optlang.plan.quantities import in_seconds

        sys.stdout.write(
            f"\nA searched trial took {in_seconds(seconds)} so far, so {study.search.trials} take about "
            f"{in_seconds(seconds * study.search.trials)}.\n"
        )
    return 0


LISTED = 10_000
"""Points that are counted one by one, to say how many of them are left."""


def _refused(study: Plan, file: Path, db: Path) -> list[str]:
    """What the newest run of this study found refused, as the database knows it, and how many points that leaves."""
    if not db.exists():
        return []
    from optlang.run.refusals import noted, recalled
    from optlang.space.space import Space

    run, trials = noted(study, db)
    facts = recalled(study, file.resolve().parent, trials)
    if not facts:
        return []
    lines = ["", f"refused in run {run}, and left out"]
    lines += [f"  {fact.what}: {fact.reason} (trial {fact.trial})" for fact in facts]
    size = Space(study).size()
    if size.exact and not size.continuous and size.points <= LISTED:
        left = sum(1 for _ in Space(study, facts=facts).points())
        lines.append(f"  {left:,} of {counted(size.points, 'point')} are left")
    return lines


def _seconds_a_trial(study: str, db: Path) -> float | None:
    """The mean time of a trial of this study, as the database knows it."""
    if not db.exists():
        return None
    from optlang.store.reader import query

    sql = "SELECT avg(seconds) FROM results WHERE study = ? AND origin = 'sampler' AND state <> 'failed'"
    rows = query(sql, [db], [study]).rows
    return rows[0][0] if rows else None


