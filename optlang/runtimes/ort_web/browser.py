"""A browser of the Chromium family without a window, and the server of its one page.

The server listens on loopback alone, under a name that nobody can guess, and serves the files that it was given and
nothing else. Its headers isolate the page from all others, which is what browsers ask for before they give it threads
and a clock that is exact to 5 µs.
"""

from __future__ import annotations

import http.server
import mimetypes
import os
import re
import secrets
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from optlang.interfaces import OptlangError

VARIABLE = "OPTLANG_BROWSER"
"""The environment's variable that names the browser's program."""

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge", "chrome")
_APPLICATIONS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)
# Playwright's own browsers, by system.
_INSTALLED = ("chromium-*/*/chrome", "chromium-*/*/*.app/Contents/MacOS/*", "chromium-*/*/chrome.exe")

ISOLATION = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_QUIET = (
    "--no-first-run", "--disable-quic", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-crash-reporter",
)
_WEBGPU = ("--enable-unsafe-webgpu", "--enable-features=Vulkan", "--disable-vulkan-surface")
_SOFTWARE = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
_START = 60_000.0
"""Milliseconds that a browser may take to start."""


def program() -> Path | None:
    """The browser to use: what the environment names, one on the path or where systems put it, Playwright's own.

    OptlangError where the environment names one that is not there.
    """
    named = os.environ.get(VARIABLE)
    if named:
        found = shutil.which(named)
        if found is None:
            raise OptlangError(f"{VARIABLE} names the browser {named}, which was not found")
        return Path(found)
    for name in (*NAMES, *_APPLICATIONS):
        found = shutil.which(name)
        if found is not None:
            return Path(found)
    return next(_playwrights(), None)


def _playwrights() -> Iterator[Path]:
    """What `playwright install chromium` put into its cache, the newest first."""
    cache = os.environ.get("PLAYWRIGHT_BROWSERS_PATH")
    folder = Path(cache) if cache else caches() / "ms-playwright"
    for pattern in _INSTALLED:
        yield from sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True)


def caches() -> Path:
    """The folder where the programs of this user keep what can be fetched again."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


class Server:
    """Serves files and bytes by exact path, and takes what the page posts to paths that are awaited.

    `put` gives the address of what it serves from then on, `awaited` one that the page can post to, `taken` what came.
    """

    def __init__(self) -> None:
        self._served: dict[str, tuple[bytes | Path, str]] = {}
        self._posted: dict[str, bytes | None] = {}
        self._secret = secrets.token_urlsafe(16)
        server = self

        class Handler(_Handler):
            owner = server

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.host = f"127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def root(self) -> str:
        """The address that all others begin with."""
        return f"http://{self.host}/{self._secret}/"

    def put(self, name: str, content: bytes | Path, kind: str | None = None) -> str:
        """Serve these bytes or this file as `name`; its type follows from its suffix."""
        path = f"/{self._secret}/{name}"
        self._served[path] = (content, kind or _kind(name))
        return f"http://{self.host}{path}"

    def drop(self, address: str) -> None:
        """Serve it no more."""
        self._served.pop(address.removeprefix(f"http://{self.host}"), None)

    def awaited(self, name: str) -> str:
        """An address that the page may post bytes to, once."""
        path = f"/{self._secret}/{name}"
        self._posted[path] = None
        return f"http://{self.host}{path}"

    def taken(self, address: str) -> bytes:
        """What was posted there; OptlangError where nothing was."""
        content = self._posted.pop(address.removeprefix(f"http://{self.host}"), None)
        if content is None:
            raise OptlangError("the page sent no answer")
        return content

    def served(self, path: str) -> tuple[bytes | Path, str] | None:
        """What lies at a path, and its kind."""
        return self._served.get(path)

    def receive(self, path: str, content: bytes) -> bool:
        """Take what was posted; whether it was awaited."""
        if self._posted.get(path, b"") is not None:
            return False
        self._posted[path] = content
        return True

    def close(self) -> None:
        """Listen no more."""
        self._http.shutdown()
        self._http.server_close()


def _kind(name: str) -> str:
    known = {".mjs": "text/javascript", ".wasm": "application/wasm", ".html": "text/html; charset=utf-8"}
    return known.get(Path(name).suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"


class _Handler(http.server.BaseHTTPRequestHandler):
    owner: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        found = self.owner.served(self.path)
        # Another name for this machine in the browser's request is somebody else's page that reaches for it.
        if found is None or self.headers.get("Host") != self.owner.host:
            self._answer(404, b"", "text/plain")
            return
        content, kind = found
        self._answer(200, content if isinstance(content, bytes) else content.read_bytes(), kind)

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        mine = self.headers.get("Host") == self.owner.host
        self._answer(204 if mine and self.owner.receive(self.path, content) else 404, b"", "text/plain")

    def _answer(self, code: int, content: bytes, kind: str) -> None:
        self.send_response(code)
        for name, value in ISOLATION.items():
            self.send_header(name, value)
        self.send_header("Cache-Control", "no-store")
        if code != 204:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if code != 204:
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what is asked for says nothing to anybody."""


class Page:
    """A browser with one page, at an address of `server`, and what is asked of it.

    `webgpu` starts it with what WebGPU needs, `software` with an adapter that calculates on the CPU. It ends with this
    process, however that ends: it hears the end of a pipe that only this process holds.
    """

    def __init__(self, server: Server, *, webgpu: bool = False, software: bool = False) -> None:
        from playwright.sync_api import Error, sync_playwright

        self._error = Error
        self._server = server
        found = program()
        if found is None:
            raise OptlangError("no browser was found", help=missing())
        # Playwright leaves the sandbox out unless asked for it; for root Chromium has none, and does not start with it.
        sandbox = not (hasattr(os, "getuid") and os.getuid() == 0)
        flags = [*_QUIET, *((_SOFTWARE if software else _WEBGPU) if webgpu else ())]
        self._playwright = sync_playwright().start()
        try:
            self._browser = self._playwright.chromium.launch(
                executable_path=str(found), headless=True, args=flags, timeout=_START, chromium_sandbox=sandbox
            )
            self._page = self._browser.new_page()
        except Error as error:
            self._playwright.stop()
            raise OptlangError(
                f"the browser {found} does not start: {_why(error)}",
                help=f"try it by hand with --headless, or name another with {VARIABLE}",
            ) from error

    @property
    def version(self) -> str:
        """The browser's version."""
        return str(self._browser.version)

    def open(self, address: str) -> None:
        """Go to an address of the server."""
        self._told(lambda: self._page.goto(address))

    def ask(self, function: str, *arguments: Any) -> Any:
        """What a JavaScript function of the page answers to plain JSON; OptlangError where it throws."""
        return self._told(lambda: self._page.evaluate(f"given => ({function})(...given)", list(arguments)))

    def _told(self, ask: Any) -> Any:
        try:
            return ask()
        except self._error as error:
            raise OptlangError(f"the page in the browser failed: {first_line(error)}") from error

    def memory(self) -> int | None:
        """The most bytes that the page's process has held; None where the system does not say.

        It is the largest of the browser's processes that draw pages: the others have no page of ours.
        """
        session = self._browser.new_browser_cdp_session()
        try:
            processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
        finally:
            session.detach()
        peaks = [_peak(int(item["id"])) for item in processes if item["type"] == "renderer"]
        return max((item for item in peaks if item is not None), default=None)

    def close(self) -> None:
        """End the browser."""
        try:
            self._browser.close()
        except self._error:
            pass  # it has ended already
        finally:
            self._playwright.stop()

    def __enter__(self) -> Page:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def missing() -> str:
    """How to come by a browser."""
    return (
        f"install Chromium, Chrome or Edge, or name one with {VARIABLE}; `playwright install chromium` fetches one too"
    )


def first_line(error: BaseException) -> str:
    """Playwright's messages say the function first, and end with what the browser printed."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].partition(": ")[2].removeprefix("Error: ") or lines[0]


def _why(error: BaseException) -> str:
    """The last that the browser itself said was wrong, else what Playwright says."""
    said = re.findall(r"\[err\] \[[^\]]*:(?:ERROR|FATAL):[^\]]*\] (.+)", str(error))
    return said[-1] if said else first_line(error)


def _peak(number: int) -> int | None:
    try:
        for line in Path(f"/proc/{number}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def page(script: str, options: Mapping[str, Any] | Sequence[Any]) -> bytes:
    """A page that runs one module, with its options as JSON."""
    import json

    # A script's text ends at its closing tag wherever that stands.
    data = json.dumps(options).replace("<", "\\u003c")
    return (
        '<!doctype html><meta charset="utf-8"><title>optlang</title>'
        f'<script id="options" type="application/json">{data}</script><script type="module" src="{script}"></script>'
    ).encode()
