"""The README of an export, for people who know its runtime and nothing of how it was made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from optlang.plan.quantities import compared, counted, quantity
from optlang.report.export.web import SERVER

_FIRST = ("size", "latency.p50", "latency.p95", "accuracy", "agreement", "memory.peak", "load_time")


def readme(manifest: Mapping[str, Any]) -> str:
    """What the folder holds, how to run it, what goes in and comes out, and what was measured."""
    lines = [
        f"# {manifest['study']}, trial {manifest['trial']}", "",
        f"How it was made: {manifest['what']}. `manifest.json` has all of it for programs: settings, versions, hashes.",
        "",
    ]
    asks = [*manifest["goals"], *(f"require {text}" for text in manifest["requirements"])]
    if asks:
        lines += [f"Goals and requirements: {'; '.join(asks)}.", ""]
    if manifest["tie_of"] is not None:
        lines += [f"It is within noise of trial {manifest['tie_of']} in every goal.", ""]
    if manifest["ties"]:
        numbers = ", ".join(map(str, manifest["ties"]))
        lines += [f"Within noise of it in every goal: {counted(len(manifest['ties']), 'trial')} ({numbers}).", ""]
    if manifest["state"] == "infeasible" and manifest["reason"]:
        lines += [f"It does not meet the study's requirements: {manifest['reason']}.", ""]
    if manifest["preprocessing"] is not None:
        lines += [f"Preprocessing of inputs: {_said(manifest['preprocessing'])}.", ""]
    for entry in manifest["artifacts"]:
        lines += _entry(manifest, entry, [item for item in manifest["figures"] if item["target"] == entry["target"]])
    return "\n".join(lines)


def _entry(
    manifest: Mapping[str, Any], entry: Mapping[str, Any], figures: list[Mapping[str, Any]]
) -> Iterator[str]:
    runtime = str(entry["runtime"] or entry["format"]).rpartition(".")[2]
    yield f"## {entry['target']}: {runtime}"
    yield ""
    names = dict.fromkeys(f"`{entry['folder']}{_whole(file['name'])}`" for file in entry["files"])
    yield f"- The model: {', '.join(names)}"
    for key in ("inputs", "outputs"):
        yield f"- {key.capitalize()}: {'; '.join(map(_tensor, entry[key]))}"
    if entry["dependence"] is not None:
        yield f"- **Call it as it was measured**: {entry['dependence']}"
    yield ""
    if entry["program"] is not None:
        yield f"    python {entry['folder']}{entry['program']}"
        yield ""
        yield _served() if entry["program"] == SERVER else (
            "runs it on the example inputs next to it, and compares the answers with those that were measured. "
            "Its first lines say which package it needs; `load` and `run` in it are what an application needs."
        )
        yield ""
    rows = [item for item in _ordered(manifest, entry, figures) if item["value"] is not None]
    if rows:
        yield from _held(manifest, entry, rows)
        yield "| measured | value | 95 % interval | the original | against it |"
        yield "|---|---|---|---|---|"
        for item in rows:
            unit = item["unit"] or ""
            keys = ("value", "low", "high", "baseline")
            value, low, high, before = ("" if item[key] is None else quantity(item[key], unit) for key in keys)
            interval = f"{low} to {high}" if item["low"] != item["high"] else ""
            yield f"| {item['metric']} | {value} | {interval} | {before} | {_against(item)} |"
        yield ""


def _ordered(
    manifest: Mapping[str, Any], entry: Mapping[str, Any], figures: list[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Everything that was measured: first what the study is about, then what people look for, then the rest."""
    named = [name.removeprefix(f"{entry['target']}.") for name in manifest["asked"]]
    first = list(dict.fromkeys([*named, *_FIRST]))
    ranks = {name: rank for rank, name in enumerate(first)}
    return sorted(figures, key=lambda item: (ranks.get(item["metric"], len(ranks)), item["metric"]))


def _held(
    manifest: Mapping[str, Any], entry: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """At which batch, shape, threads and device the figures hold, and on how many samples answers were judged."""
    call = entry["about"].get("measured")
    said = []
    if isinstance(call, Mapping):
        sizes = call.get("sizes") or {}
        shapes = ", ".join(
            f"`{item['name']}` {[call['batch'], *sizes.get(item['name'], item['shape'][1:])]}"
            for item in entry["inputs"] if item.get("shape")
        )
        between = ", ".join(f"`{name}` {[call['batch'], *size]}" for name, size in (call.get("between") or {}).items())
        before = f", each after a call of another shape ({between})" if between else ""
        machine = manifest["machine"] or {}
        machine = (machine.get("devices") or {}).get(entry["target"], machine)
        place = call.get("place") or call["device"]
        where = f"{place} ({machine['processor']})" if machine.get("processor") else place
        said.append(
            f"The figures hold for calls with batch {call['batch']}{f' ({shapes})' if shapes else ''}{before} and "
            f"{counted(int(call['threads']), 'thread')} on {where}; other batches and shapes were not measured."
        )
    for of, data in (("answers", "validation data"), ("test answers", "test data, which the search has not seen")):
        judged = [item for item in rows if item["of"] == of]
        for n in dict.fromkeys(item["n"] for item in judged):
            names = ", ".join(item["metric"] for item in judged if item["n"] == n)
            said.append(f"From {counted(n, 'sample')} of {data}: {names}.")
    if said:
        yield " ".join(said)
        yield ""


def _served() -> str:
    return (
        "prints the address of a page for browsers of this machine that runs it on the example inputs, and compares "
        "the answers with those that were measured. Its first lines say which package it needs; `load` and `run` in "
        "`run.mjs` are what a site needs, and the two headers that `serve.py` sends where it is to have threads."
    )


def _whole(name: str) -> str:
    """A package is a folder, which users handle as one file."""
    first = name.split("/")[0]
    return first if first.endswith(".mlpackage") else name


def _tensor(item: Mapping[str, Any]) -> str:
    if "shape" not in item:
        return f"`{item['name']}`"
    return f"`{item['name']}`, {item['dtype']} [{', '.join(map(str, item['shape']))}]"


def _against(item: Mapping[str, Any]) -> str:
    unit = item["unit"] or ""
    text = compared(item.get("times_better"), item.get("lost"), unit)
    return f"{text} points" if text and unit == "ratio" and item.get("times_better") is None else text


def _said(preprocessing: Any) -> str:
    if isinstance(preprocessing, Mapping):
        return "; ".join(f"{name} {value}" for name, value in preprocessing.items())
    return str(preprocessing).rstrip(".")
