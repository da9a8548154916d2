"""The page that goes with an exported model, for people who know its runtime and nothing of how it was made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from optlang.plan.quantities import quantity
from optlang.report.web import SERVER

_SHOWN = ("size", "latency.p50", "latency.p95", "accuracy", "agreement", "memory.peak", "load_time")


def readme(manifest: Mapping[str, Any]) -> str:
    """What the folder holds, how to run it, what goes in and comes out, and what was measured."""
    lines = [
        f"# {manifest['study']}, trial {manifest['trial']}", "",
        f"How it was made: {manifest['what']}. `manifest.json` says it all for programs: settings, versions, hashes.",
        "",
    ]
    if manifest["state"] == "infeasible" and manifest["reason"]:
        lines += [f"It does not meet the study's requirements: {manifest['reason']}.", ""]
    if manifest["preprocessing"] is not None:
        lines += [f"Inputs are prepared so: {_said(manifest['preprocessing'])}.", ""]
    for entry in manifest["artifacts"]:
        lines += _entry(entry, [item for item in manifest["figures"] if item["target"] == entry["target"]])
    return "\n".join(lines)


def _entry(entry: Mapping[str, Any], figures: list[Mapping[str, Any]]) -> Iterator[str]:
    runtime = str(entry["runtime"] or entry["format"]).rpartition(".")[2]
    yield f"## {entry['target']}: {runtime}"
    yield ""
    names = dict.fromkeys(f"`{entry['folder']}{_whole(file['name'])}`" for file in entry["files"])
    yield f"- The model: {', '.join(names)}"
    for key in ("inputs", "outputs"):
        yield f"- {key.capitalize()}: {'; '.join(map(_tensor, entry[key]))}"
    if entry["samples_a_call"] is not None:
        yield f"- Measured with {entry['samples_a_call']} in a call: speed, and how good the answers are"
    if entry["dependence"] is not None:
        yield f"- **Call it as it was measured**: {entry['dependence']}"
    yield ""
    if entry["program"] is not None:
        yield f"    python {entry['folder']}{entry['program']}"
        yield ""
        yield _served() if entry["program"] == SERVER else (
            "runs it on the example inputs that lie beside it, and compares the answers with those that were measured. "
            "Its first lines say which package it needs; `load` and `run` in it are what an application needs."
        )
        yield ""
    rows = [item for name in _SHOWN for item in figures if item["metric"] == name and item["value"] is not None]
    if rows:
        yield "| measured | value | 95 % interval | the original | against it |"
        yield "|---|---|---|---|---|"
        for item in rows:
            unit = item["unit"] or ""
            keys = ("value", "low", "high", "baseline")
            value, low, high, before = ("" if item[key] is None else quantity(item[key], unit) for key in keys)
            yield f"| {item['metric']} | {value} | {low} to {high} | {before} | {_against(item)} |"
        yield ""


def _served() -> str:
    return (
        "says the address of a page for browsers of this machine that runs it on the example inputs, and compares the "
        "answers with those that were measured. Its first lines say which package it needs; `load` and `run` in "
        "`run.mjs` are what a site needs, and the two headers that `serve.py` sends where it is to have threads."
    )


def _whole(name: str) -> str:
    """A package is a folder, and one thing to whoever uses it."""
    first = name.split("/")[0]
    return first if first.endswith(".mlpackage") else name


def _tensor(item: Mapping[str, Any]) -> str:
    if "shape" not in item:
        return f"`{item['name']}`"
    return f"`{item['name']}`, {item['dtype']} [{', '.join(map(str, item['shape']))}]"


def _against(item: Mapping[str, Any]) -> str:
    if item.get("times_better") is not None:
        return f"×{item['times_better']:.3g}"
    if item.get("lost") is not None:
        return f"{-100 * item['lost']:+.2f} points" if item["unit"] == "ratio" else f"{-item['lost']:+.3g}"
    return ""


def _said(preprocessing: Any) -> str:
    if isinstance(preprocessing, Mapping):
        return "; ".join(f"{name} {value}" for name, value in preprocessing.items())
    return str(preprocessing).rstrip(".")
