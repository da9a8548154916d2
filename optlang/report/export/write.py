"""Writes a trial's artifact to a folder: its files, a manifest, a README, and a runner that needs only its runtime."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optlang.diagnostics.command_line import command
from optlang.interfaces import Artifact, OptlangError
from optlang.plan.metrics import TEST, validated
from optlang.plan.model import Plan
from optlang.report.export import checked, web
from optlang.report.export.readme import readme
from optlang.report.export.runners import builder, runner
from optlang.report.front import load_members, named_metrics
from optlang.report.selection import Chosen, check_trial, choose, study_file
from optlang.store.artifacts import artifact_folder, home_of_artifact, whole_sum
from optlang.store.reader import Reader
from optlang.workload import sources


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: the folder, its files by name, and the manifest as it stands in `manifest.json`.

    `sources` are the folders that the artifacts were copied from.
    """

    folder: Path
    files: tuple[str, ...]
    manifest: Mapping[str, Any]
    sources: tuple[Path, ...]


def pruned(reader: Reader, study: str | None, trial: int) -> bool:
    """Whether the trial's artifact was removed to keep the disk within its limit; OptlangError as `export`."""
    chosen = choose(reader, study)
    check_trial(reader, chosen, trial)
    found = reader.query(
        "SELECT count(*) FROM artifacts WHERE run = ? AND trial = ? AND pruned IS NOT NULL", [chosen.run, trial]
    )
    return bool(found.rows[0][0])


def home(reader: Reader, study: str | None, trial: int) -> Path | None:
    """The folder of cache and artifacts that the trial's artifact was built in; None where that is no longer there."""
    chosen = choose(reader, study)
    rows = reader.query("SELECT path FROM artifacts WHERE run = ? AND trial = ?", [chosen.run, trial]).rows
    found = home_of_artifact(rows[0][0]) if rows else None
    return found if found is not None and found.is_dir() else None


def export(
    reader: Reader, study: str | None, trial: int, folder: Path, *, overwrite: bool = False,
    rebuilt: Mapping[str, Artifact] | None = None,
) -> Exported:
    """Copy a trial's artifact into `folder`, with `manifest.json` and what runs it: `run.py`, or a page for browsers.

    Where it knows a command that builds it again, `build.sh` says that, and the files it begins with come along.

    `rebuilt` are the artifacts by target where they were removed, and built again. With several targets each has a
    folder of its own inside. OptlangError: no such study or trial, a trial without an
    artifact (with the reason), files that are gone or are no longer what was measured, or a folder that holds something
    (unless `overwrite`, which replaces files of the same names and touches no other). Nothing is put into the folder
    before all of it is there and checked.
    """
    chosen = choose(reader, study)
    check_trial(reader, chosen, trial)
    row = reader.query("SELECT * FROM trials WHERE run = ? AND trial = ?", [chosen.run, trial]).dicts()[0]
    found = reader.query(
        "SELECT * FROM artifacts WHERE run = ? AND trial = ? ORDER BY target", [chosen.run, trial]
    ).dicts()
    _check_exportable(reader.dbs[0], chosen, row, found)
    if rebuilt is not None:
        found = [{**item, **_again(rebuilt[item["target"]])} for item in found if item["target"] in rebuilt]
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise OptlangError(f"{folder} is a file", help="name a folder with -o")
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise OptlangError(f"{folder} is not empty", help="name another folder with -o, or say --force")
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        manifest = _fill(reader, chosen, row, found, aside)
        files = tuple(sorted(str(path.relative_to(aside)) for path in aside.rglob("*") if path.is_file()))
        # What else lies in the folder is the user's.
        for name in files:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.parent.resolve().is_relative_to(folder):
                raise OptlangError(
                    f"{target.parent} is a link that leads out of {folder}", help="name another folder with -o"
                )
            (aside / name).replace(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Exported(folder, files, manifest, tuple(_source(reader, item["path"]) for item in found))


def _again(artifact: Artifact) -> dict[str, Any]:
    """What a row of the table has of an artifact that was built again."""
    files = [{"name": file.name, "bytes": file.bytes, "sha256": file.sha256} for file in artifact.files]
    return {
        "path": str(artifact.folder), "bytes": sum(file.bytes for file in artifact.files), "files": json.dumps(files),
        "about": json.dumps(dict(artifact.about)), "sha256": whole_sum(artifact.files),
    }


def _check_exportable(
    db: Path, chosen: Chosen, row: Mapping[str, Any], artifacts: Sequence[Mapping[str, Any]]
) -> None:
    name = f"trial {row['trial']} of `{chosen.study}`"
    listing = command("front", chosen.study, db=db)
    if row["state"] == "failed":
        raise OptlangError(f"{name} failed: {row['reason']}", help=f"`{listing}` lists the trials to choose from")
    if row["state"] == "running":
        raise OptlangError(f"{name} is still running", help="wait until it has ended")
    if not artifacts:
        raise OptlangError(
            f"{name} has no artifact: it ended as `{row['state']}` before one was built",
            help=f"`{listing}` lists the trials to choose from",
        )


def _fill(
    reader: Reader, chosen: Chosen, row: Mapping[str, Any], artifacts: Sequence[Mapping[str, Any]], folder: Path
) -> Mapping[str, Any]:
    plan = reader.plan(chosen.run)
    member = load_members(reader, chosen, plan, [row["trial"]])[0]
    notes = _decoded(row["notes"]) or {}
    entries = []
    for artifact in artifacts:
        target = checked.folder(artifact["target"])
        inside = folder if len(artifacts) == 1 else folder / target
        inside.mkdir(exist_ok=True)
        entry = _copy(reader, artifact, row, inside, "" if inside == folder else f"{target}/")
        _copy_python(entry["about"], reader, chosen, inside)
        name = _runtime(plan, row["runtime"], artifact["target"])
        program = runner(name, entry)
        programs = {} if program is None else {"run.py": program}
        if (name or "").rpartition(".")[2] == web.RUNTIME:
            programs = web.pages(entry, inside)
        for file, text in programs.items():
            (inside / file).write_text(text, encoding="utf-8")
        script = builder(entry)
        if script is not None:
            (inside / "build.sh").write_text(script, encoding="utf-8")
            (inside / "build.sh").chmod(0o755)
        main = next((file for file in ("run.py", web.SERVER) if file in programs), None)
        prefix = "" if len(plan.targets) < 2 else artifact["target"]
        entries.append(entry | {
            "runtime": name, "program": main, "samples_a_call": entry["about"].get("samples_a_call"),
            "batch_dependent": notes.get(f"{prefix}.batch_dependent" if prefix else "batch_dependent"),
            "dependence": member.dependence.get(prefix),
        })
    session = reader.query("SELECT * FROM sessions WHERE session = ?", [row["session"]]).dicts()
    manifest: dict[str, Any] = {
        "study": chosen.study, "file": chosen.file, "run": chosen.run, "trial": row["trial"], "what": member.words,
        "state": row["state"], "reason": row["reason"],
        **_ties(reader, chosen, row["trial"]),
        "goals": [f"{item.direction} {item.metric.name}" for item in plan.objectives],
        "requirements": [" ".join(rule.text.split()) for rule in plan.requires], "asked": named_metrics(plan),
        "missed": _decoded(row["violations"]) or [], "runtime": row["runtime"], "point": _decoded(row["point"]),
        "steps": _steps(reader, chosen, row["trial"]), "baseline_steps": _steps(reader, chosen, 0), "notes": notes,
        "preprocessing": next((about for item in entries if (about := item["about"].get("preprocessing"))), None),
        "artifacts": entries, "figures": _measured(reader, chosen, plan, row["trial"]),
        "versions": _decoded(session[0]["versions"]) if session else None,
        "machine": _decoded(session[0]["machine"]) if session else None,
        "git": _decoded(session[0]["git"]) if session else None, "optlang": session[0]["optlang"] if session else None,
    }
    (folder / "README.md").write_text(readme(manifest), encoding="utf-8")
    text = json.dumps(manifest, indent=2, ensure_ascii=False, default=str) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    return manifest


def _ties(reader: Reader, chosen: Chosen, trial: int) -> dict[str, Any]:
    """The member of the front that stands for the trial, if another does, and the trials that the trial stands for."""
    rows = reader.query("SELECT trial, tie_of FROM front WHERE run = ? ORDER BY trial", [chosen.run]).rows
    return {
        "tie_of": next((other for number, other in rows if number == trial), None),
        "ties": [number for number, other in rows if other == trial],
    }


def _steps(reader: Reader, chosen: Chosen, trial: int) -> list[dict[str, Any]]:
    rows = reader.query(
        "SELECT path, technique, settings FROM steps WHERE run = ? AND trial = ? ORDER BY position",
        [chosen.run, trial],
    ).dicts()
    return [step | {"settings": _decoded(step["settings"])} for step in rows]


def _runtime(plan: Plan, labels: str | None, target: str) -> str | None:
    """The declared name of the runtime that a trial ran in on a target, from what the study calls it there."""
    taken = (labels or "").split(", ")
    for item in plan.targets:
        for use in item.runtimes if item.name == target else ():
            if use.label in taken or f"{target}.{use.label}" in taken:
                return use.runtime
    # The baseline may be in a runtime that is none of the study's.
    return next((label.rpartition(".")[2] for label in taken if label.rpartition(".")[0] in ("", target)), None)


def _copy(
    reader: Reader, artifact: Mapping[str, Any], row: Mapping[str, Any], folder: Path, inside: str
) -> dict[str, Any]:
    """Copy the files of one artifact, each of them as it was measured, and say what they are."""
    source = _source(reader, artifact["path"])
    about = _decoded(artifact["about"]) or {}
    files = _decoded(artifact["files"]) or []
    # Files next to the model are not loaded; a build on another machine starts from them.
    for file in [*files, *about.get("beside", ())]:
        name = checked.file(file["name"])
        path, target = source / name, folder / name
        if not path.is_file():
            raise OptlangError(f"the artifact of trial {row['trial']} is gone: there is no {path}", help=_AGAIN)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        if _sha256(target) != file["sha256"]:
            raise OptlangError(
                f"the artifact of trial {row['trial']} is no longer what was measured: {path} has changed", help=_AGAIN
            )
    examples = [path for name in ("example_inputs.npz", "example_outputs.npz") if (path := source / name).is_file()]
    for path in examples:
        shutil.copyfile(path, folder / path.name)
    return {
        "folder": inside, "target": artifact["target"], "format": artifact["format"], "bytes": artifact["bytes"],
        "sha256": artifact["sha256"], "files": files, "inputs": _tensors(artifact["inputs"], about.get("inputs")),
        "outputs": _tensors(artifact["outputs"], about.get("outputs")), "about": about,
        "examples": [path.name for path in examples],
    }


def _source(reader: Reader, recorded: str) -> Path:
    """The folder of an artifact."""
    source = artifact_folder(recorded, [db.resolve().parent / ".optlang" for db in reader.dbs])
    if source.is_absolute():
        return source
    found = [db.resolve().parent / source for db in reader.dbs]
    return next((path for path in found if path.exists()), found[0])


def _copy_python(about: Mapping[str, Any], reader: Reader, chosen: Chosen, folder: Path) -> None:
    """Copy the user's own Python that makes the model, and what it imports from the study's folder.

    An export runs its own copy, not the files at a path that the database names. OptlangError where that
    Python is gone.
    """
    if "factory" not in about or not chosen.file:
        return
    study = study_file(reader, chosen.file).parent
    for item in (about["factory"], *about.get("edits", ())):
        calls = checked.calls(item["calls"])
        first = study / calls.rpartition(":")[0]
        if first.suffix != ".py":
            continue
        if not first.is_file():
            raise OptlangError(
                f"the Python that makes the model is gone: there is no {first}",
                help="put it back; where the database was moved or copied, move the study and its Python along",
            )
        try:
            files = sources.reached(first, study)
        except SyntaxError as error:
            raise OptlangError(f"{first} is not Python now: {error}", help="restore it as it was at the run") from error
        for path in files:
            target = folder / PYTHON / path.relative_to(study)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


PYTHON = "python"
"""The folder, in an export, of the user's own Python."""

_AGAIN = (
    "artifacts are in .optlang/ next to the database: where it was moved or copied, move that folder along; or run the "
    "study with --new to build them again"
)


def _tensors(names: str | None, known: Any) -> list[dict[str, Any]]:
    """Names in order, with the types and shapes where the artifact knows them."""
    facts = known if isinstance(known, Mapping) else {}
    listed = _decoded(names) or []
    if isinstance(known, list) and all(isinstance(item, Mapping) and "name" in item for item in known):
        facts = {item["name"]: item for item in known}
    return [{"name": name, **(facts[name] if isinstance(facts.get(name), Mapping) else {})} for name in listed]


def _measured(reader: Reader, chosen: Chosen, plan: Plan, trial: int) -> list[dict[str, Any]]:
    """The latest figures of each target with their intervals, and how they compare with the baseline's.

    `baseline` is what was measured of it next to the trial. Where nothing was compared side by side it is what was
    measured of it alone; None where only the ratio of the two is known (an earlier version stored no more).
    """
    metrics = {metric.name: metric for metric in plan.metrics}
    rows = reader.query(
        "SELECT trial, target, metric, value, unit, n, low, high, ratio, ratio_low, ratio_high, baseline "
        "FROM measurements "
        "WHERE run = ? AND trial IN (0, ?) "
        "QUALIFY row_number() OVER (PARTITION BY trial, target, metric ORDER BY pass DESC) = 1 ORDER BY target, metric",
        [chosen.run, trial],
    ).dicts()
    baseline = {(row["target"], row["metric"]): row["value"] for row in rows if row["trial"] == 0}
    figures = []
    for row in rows:
        reference, metric = row["baseline"], metrics.get(validated(row["metric"]))
        apart = reference is None and row["ratio"] is not None and metric is not None and not metric.judges
        if reference is None and not apart:
            reference = baseline.get((row["target"], row["metric"]))
        number, value, ratio = row.pop("trial"), row["value"], row.pop("ratio")
        low, high = row.pop("ratio_low"), row.pop("ratio_high")
        if number != trial:
            continue
        row["of"] = _of(plan, validated(row["metric"]))
        if row["metric"].startswith(TEST):
            row["of"] = "test answers"
        row["baseline"] = reference
        if apart:
            row |= {"times_better": ratio, "times_low": low, "times_high": high}
        elif metric is not None and None not in (value, reference):
            times, lost = metric.against(value, reference, ratio)
            if times is not None:
                row |= {"times_better": times, "times_low": low, "times_high": high}
            elif lost is not None:
                row["lost"] = lost
                if low is not None and high is not None:
                    row |= {"lost_low": reference * (1 - high), "lost_high": reference * (1 - low)}
        figures.append(row)
    return figures


# What is measured without being declared in the library, or was so when an earlier version stored its plan.
_CALLS = frozenset({"build_time", "load_time", "compile_time", "memory.peak"})


def _of(plan: Plan, metric: str) -> str:
    """Whether a metric is one of the answers, as those of a task are, or of the artifact and its calls."""
    judges = next((item.judges for item in plan.metrics if item.name == metric), None)
    return "answers" if judges or (judges is None and metric not in _CALLS) else "artifact"


def _decoded(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
