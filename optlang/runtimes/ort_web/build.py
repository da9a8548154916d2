"""ONNX Runtime in a web browser: WebAssembly on the processor, or WebGPU. Knows its options and its page."""

from __future__ import annotations

import functools
import importlib.util
import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from optlang import resources
from optlang.interfaces import (
    JSON,
    Arrays,
    Artifact,
    ModelState,
    OptlangError,
    QuantWants,
    Refusal,
    Session,
    TargetSpec,
)

if TYPE_CHECKING:
    import numpy

    from optlang.runtimes.ort_web.browser import Page, Server
    from optlang.workload.data.dataset import Dataset

_SCRIPT = resources.data("optlang.runtimes.ort_web", "session.mjs")
_PROVIDERS = ("wasm", "webgpu")


class OrtWeb:
    """The artifact is `model.onnx`, opened in a page of a browser of this machine.

    `settings["provider"]` is "wasm" (on the processor, with the target's threads) or "webgpu";
    `settings["software"]` takes a WebGPU adapter that calculates on the processor, whose times say nothing of a GPU's.
    """

    imports: ClassVar[tuple[str, ...]] = ("playwright.sync_api",)
    """What `open` needs in memory first."""

    def available(self) -> str | None:
        """None where Playwright, a browser and the files of onnxruntime-web are here."""
        from optlang.runtimes.ort_web import browser
        from optlang.runtimes.ort_web import files as ort_web_files

        reasons = []
        if importlib.util.find_spec("playwright") is None:
            reasons.append('pip install "optlang-dsl[browser]"')
        try:
            if browser.program() is None:
                reasons.append(f"no browser: {browser.missing()}")
            if ort_web_files.folder() is None:
                reasons.append(
                    f"no files of onnxruntime-web: `{ort_web_files.COMMAND}` fetches them from npm, or name a folder "
                    f"with {ort_web_files.VARIABLE}"
                )
        except OptlangError as error:
            reasons.append(error.message)
        return "; ".join(reasons) or None

    def wants(self) -> QuantWants:
        """Unsigned activations and symmetric signed weights by channel.

        WebAssembly's products of 16 bits are added in 32, so that nothing overflows and weights use all eight bits.
        Other kinds of int8 are as fast there, within a tenth: what is natively the fastest is taken here too.
        """
        return QuantWants("uint8", "int8", False, True, True)

    def build(
        self, state: ModelState, target: TargetSpec, settings: Mapping[str, Any], folder: Path, data: Dataset,
        study: Path,
    ) -> Artifact:
        """Write the ONNX file. For WebGPU the browser is asked for its adapter, whose name `about` keeps."""
        from optlang.runtimes.shared import onnx_file

        if target.device != "browser":
            raise Refusal(
                f"this runtime is ONNX Runtime in a browser; the target's device is {target.device}",
                help="write `device = browser`",
            )
        provider = _provider(settings)
        about: dict[str, JSON] = {"provider": provider, "threads": target.threads}
        if provider == "webgpu":
            about |= _adapter(bool(settings.get("software", False)))
        about["onnxruntime-web"] = _version()
        built = onnx_file.build(state, "ort_web", folder, data, study)
        return replace(built, about={**built.about, **about})

    def open(self, artifact: Artifact, target: TargetSpec, settings: Mapping[str, Any], study: Path) -> Session:
        """A page that has loaded the model; Refusal where it cannot."""
        return _Open(artifact, target.threads, _provider(settings), bool(settings.get("software", False)))


def _provider(settings: Mapping[str, Any]) -> str:
    provider = str(settings.get("provider", "wasm"))
    if provider not in _PROVIDERS:
        raise OptlangError(f"ort_web has no provider '{provider}'", help=f"one of {', '.join(_PROVIDERS)}")
    return provider


def _files(provider: str) -> dict[str, Path]:
    from optlang.runtimes.ort_web import files as ort_web_files

    place = ort_web_files.folder()
    if place is None:
        raise OptlangError("there are no files of onnxruntime-web here", help=f"`{ort_web_files.COMMAND}` fetches them")
    found = {name: place / name for name in ort_web_files.names(provider)}
    absent = [name for name, path in found.items() if not path.is_file()]
    if absent:
        raise OptlangError(
            f"{place} lacks {absent[0]}, which {provider} needs", help=f"`{ort_web_files.COMMAND}` fetches all of them"
        )
    return found


def _version() -> str:
    from optlang.runtimes.ort_web import files as ort_web_files

    place = ort_web_files.folder()
    return "unknown" if place is None else ort_web_files.version(place)


@functools.cache
def _adapter(software: bool) -> dict[str, JSON]:
    """The browser's version and its WebGPU adapter; asked once, since the browser's start takes a second."""
    from optlang.runtimes.ort_web.browser import Page, Server, page

    server = Server()
    try:
        script = server.put("page.mjs", _SCRIPT)
        address = server.put("index.html", page(script, {}))
        with Page(server, webgpu=True, software=software) as opened:
            opened.open(address)
            return {"adapter": _usable(opened, software), "browser": opened.version}
    finally:
        server.close()


def _usable(opened: Page, software: bool) -> str:
    """The name of the page's WebGPU adapter; Refusal where there is none that tells something."""
    found = opened.ask("() => bench.adapter()")
    if found is None:
        raise Refusal(
            "the browser has no WebGPU adapter on this machine", help="`provider = wasm` runs on the processor"
        )
    if found["software"] and not software:
        raise Refusal(
            f"the browser's WebGPU adapter here, {found['name']}, calculates on the processor: its times say nothing",
            help="measure on a machine with a GPU, or say `software = true` to take it all the same",
        )
    return str(found["name"])


class _Batch:
    """A batch that the page holds as long as this object lives."""

    __slots__ = ("__weakref__", "id")

    def __init__(self, number: int) -> None:
        self.id = number


class _Open:
    """A model in a page; `loaded` is the seconds from the page's opening until the session was ready.

    Calls are timed in the page by its own clock, whose steps are 5 µs: see `durations` in session.mjs.
    """

    def __init__(self, artifact: Artifact, threads: int, provider: str, software: bool) -> None:
        from optlang.runtimes.ort_web.browser import Page, Server

        self._outputs = artifact.outputs
        self._provider = provider
        self._number = 0
        self._gone: list[int] = []
        files = _files(provider)
        self._server: Server = Server()
        try:
            self._page: Page = Page(self._server, webgpu=provider == "webgpu", software=software)
            try:
                self.loaded = self._load(artifact, threads, provider, software, files)
            except BaseException:
                self._page.close()
                raise
        except BaseException:
            self._server.close()
            raise

    def _load(
        self, artifact: Artifact, threads: int, provider: str, software: bool, files: Mapping[str, Path]
    ) -> float:
        from optlang.runtimes.ort_web.browser import page

        server = self._server
        script = server.put("page.mjs", _SCRIPT)
        library, *_ = [server.put(f"ort/{name}", path) for name, path in files.items()]
        model, *beside = sorted(artifact.files, key=lambda item: not item.name.endswith(".onnx"))
        options = {
            "library": library, "folder": f"{server.root}ort/", "threads": threads, "provider": provider,
            "model": server.put("model/0", artifact.folder / model.name),
            "beside": [
                {"path": item.name, "url": server.put(f"model/{index}", artifact.folder / item.name)}
                for index, item in enumerate(beside, 1)
            ],
        }
        if provider == "webgpu":
            self._page.open(server.put("adapter.html", page(script, {})))
            _usable(self._page, software)
        self._page.open(server.put("index.html", page(script, options)))
        try:
            opened = self._page.ask("() => bench.opened")
        except OptlangError as error:
            said = error.message.partition(": ")[2]
            raise Refusal(f"ONNX Runtime in the browser does not load the model: {said}") from error
        self._inputs = tuple(opened["inputs"])
        if provider == "wasm" and opened["threads"] != threads:
            raise OptlangError(f"the page has {opened['threads']} threads where {threads} were asked for")
        return float(opened["loaded"]) / 1000.0

    def prepare(self, batch: Arrays) -> _Batch:
        import numpy

        self._number += 1
        prepared = _Batch(self._number)
        inputs = []
        for index, name in enumerate(self._inputs):
            array = numpy.ascontiguousarray(batch[name])
            address = self._server.put(f"batch/{prepared.id}/{index}", array.tobytes())
            inputs.append({"name": name, "type": array.dtype.name, "dims": list(batch[name].shape), "url": address})
        gone, self._gone = self._gone, []
        self._page.ask("bench.prepare", prepared.id, inputs, gone)
        for item in inputs:
            self._server.drop(str(item["url"]))
        weakref.finalize(prepared, self._gone_by, prepared.id)
        return prepared

    def _gone_by(self, number: int) -> None:
        self._gone.append(number)

    def run(self, prepared: _Batch) -> _Batch:
        self._page.ask("bench.run", prepared.id)
        return prepared

    def durations(self, prepared: _Batch, seconds: float, calls: int, skip: int) -> list[int]:
        return [int(item) for item in self._page.ask("bench.durations", prepared.id, seconds, calls, skip)]

    def collect(self, result: _Batch) -> dict[str, numpy.ndarray[Any, Any]]:
        import numpy

        addresses = {
            name: self._server.awaited(f"answer/{result.id}/{index}") for index, name in enumerate(self._outputs)
        }
        told = self._page.ask("bench.collect", result.id, addresses)
        return {
            item["name"]: numpy.frombuffer(self._server.taken(addresses[item["name"]]), item["type"]).reshape(
                item["dims"]
            )
            for item in told
        }

    def memory(self) -> int | None:
        # With WebGPU the model lies in a process that the browser shares among all pages, and on its card.
        return self._page.memory() if self._provider == "wasm" else None

    def close(self) -> None:
        self._page.close()
        self._server.close()
