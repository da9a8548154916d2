"""ONNX Runtime in a web browser: WebAssembly on the processor, or WebGPU."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from optlang.interfaces import JSON, Artifact, ModelState, OptlangError, QuantWants, Refusal, Session, TargetSpec
from optlang.runtimes.ort_web import session

if TYPE_CHECKING:

    from optlang.workload.data.dataset import Dataset



class OrtWeb:
    """The artifact is `model.onnx`, opened in a page of a browser of this machine.

    `settings["provider"]` is "wasm" (on the processor, with the target's threads) or "webgpu";
    `settings["software"]` takes a WebGPU adapter that calculates on the processor, whose times say nothing of a GPU's.
    """

    imports: ClassVar[tuple[str, ...]] = ("playwright.sync_api",)

    def available(self) -> str | None:
        """None where Playwright, a browser and the files of onnxruntime-web are here."""
        from optlang.runtimes.ort_web import browser
        from optlang.runtimes.ort_web import files as ort_web_files

        reasons = []
        if importlib.util.find_spec("playwright") is None:
            reasons.append('pip install "optlang-dsl[browser]"')
        try:
            if browser.program() is None:
                reasons.append(f"no browser was found: {browser.missing()}")
            if ort_web_files.folder() is None:
                reasons.append(
                    f"the files of onnxruntime-web were not found: `{ort_web_files.COMMAND}` downloads them from npm, "
                    f"or name their folder with {ort_web_files.VARIABLE}"
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
                help="set device = browser",
            )
        provider = str(settings.get("provider", "wasm"))
        about: dict[str, JSON] = {"provider": provider, "threads": target.threads}
        if provider == "webgpu":
            about |= _adapter(bool(settings.get("software", False)))
        about["onnxruntime-web"] = _version()
        built = onnx_file.build(state, "ort_web", folder, data, study)
        return replace(built, about={**built.about, **about})

    def open(self, artifact: Artifact, target: TargetSpec, settings: Mapping[str, Any], study: Path) -> Session:
        """A page that has loaded the model; Refusal where it cannot."""
        provider, software = str(settings.get("provider", "wasm")), bool(settings.get("software", False))
        return session.OrtWebSession(artifact, target.threads, provider, software)


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
        script = server.put("page.mjs", session.SCRIPT)
        address = server.put("index.html", page(script, {}))
        with Page(server, webgpu=True, software=software) as opened:
            opened.open(address)
            return {"adapter": session.usable(opened, software), "browser": opened.version}
    finally:
        server.close()


