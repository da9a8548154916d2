"""A model that ONNX Runtime has loaded in a page of a browser, and its calls: the Python side of session.mjs."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from optlang import resources
from optlang.interfaces import Array, Arrays, Artifact, OptlangError, Refusal

if TYPE_CHECKING:
    from optlang.runtimes.ort_web.browser import Page, Server

SCRIPT = resources.data("optlang.runtimes.ort_web", "session.mjs")


class _Batch:
    """A batch that the page holds as long as this object lives."""

    __slots__ = ("__weakref__", "id")

    def __init__(self, number: int) -> None:
        self.id = number


class OrtWebSession:
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
        script = server.put("page.mjs", SCRIPT)
        library, *_ = [server.put(f"ort/{name}", path) for name, path in files.items()]
        model, *others = sorted(artifact.files, key=lambda item: not item.name.endswith(".onnx"))
        options = {
            "library": library, "folder": f"{server.root}ort/", "threads": threads, "provider": provider,
            "model": server.put("model/0", artifact.folder / model.name),
            "beside": [
                {"path": item.name, "url": server.put(f"model/{index}", artifact.folder / item.name)}
                for index, item in enumerate(others, 1)
            ],
        }
        if provider == "webgpu":
            self._page.open(server.put("adapter.html", page(script, {})))
            usable(self._page, software)
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

    def collect(self, result: _Batch) -> dict[str, Array]:
        import numpy

        addresses = {
            name: self._server.awaited(f"answer/{result.id}/{index}") for index, name in enumerate(self._outputs)
        }
        answers = self._page.ask("bench.collect", result.id, addresses)
        return {
            item["name"]: numpy.frombuffer(self._server.taken(addresses[item["name"]]), item["type"]).reshape(
                item["dims"]
            )
            for item in answers
        }

    def memory(self) -> int | None:
        # With WebGPU the model lies in a process that the browser shares among all pages, and on its card.
        return self._page.memory() if self._provider == "wasm" else None

    def close(self) -> None:
        self._page.close()
        self._server.close()


def _files(provider: str) -> dict[str, Path]:
    from optlang.runtimes.ort_web import files as ort_web_files

    place = ort_web_files.folder()
    if place is None:
        raise OptlangError(
            "the files of onnxruntime-web were not found",
            help=f"`{ort_web_files.COMMAND}` fetches them",
        )
    found = {name: place / name for name in ort_web_files.names(provider)}
    absent = [name for name, path in found.items() if not path.is_file()]
    if absent:
        raise OptlangError(
            f"{place} lacks {absent[0]}, which {provider} needs", help=f"`{ort_web_files.COMMAND}` fetches all of them"
        )
    return found


def usable(opened: Page, software: bool) -> str:
    """The name of the page's WebGPU adapter; Refusal where there is none that tells something."""
    found = opened.ask("() => bench.adapter()")
    if found is None:
        raise Refusal(
            "the browser has no WebGPU adapter on this machine", help="set provider = wasm, which runs on the CPU"
        )
    if found["software"] and not software:
        raise Refusal(
            f"the browser's WebGPU adapter, {found['name']}, is emulated on the CPU: its latency says nothing about a "
            "GPU",
            help="measure on a machine with a GPU, or set software = true to accept it",
        )
    return str(found["name"])
