"""Serves this folder to browsers of this machine: `python serve.py [--port 8000] [--ort FOLDER]`.

The library is onnxruntime-web, from npm: `npm install onnxruntime-web@«version»` in this folder, or name the folder
`dist` of the package with --ort. The headers are what a page needs for threads; a site that is to have them sends the
same two: Cross-Origin-Opener-Policy and Cross-Origin-Embedder-Policy.
"""

import argparse
import http.server
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIBRARY = "«library»"


class Handler(http.server.SimpleHTTPRequestHandler):
    """The files of this folder, with the library's under /ort/."""

    ort = HERE / "ort"

    def guess_type(self, path: str | os.PathLike[str]) -> str:
        # Systems differ in what they know of these two, and browsers take no other kinds.
        kinds = {".mjs": "text/javascript", ".wasm": "application/wasm"}
        return kinds.get(Path(path).suffix) or super().guess_type(path)

    def translate_path(self, path: str) -> str:
        found = Path(super().translate_path(path))
        folder = HERE / "ort"
        return str(self.ort / found.relative_to(folder) if found.is_relative_to(folder) else found)

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the page says what it does."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Serves this folder to browsers of this machine.")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument("--ort", type=Path, help="the folder with onnxruntime-web's files")
    given = parser.parse_args()
    places = [given.ort] if given.ort else [HERE / "ort", HERE / "node_modules" / "onnxruntime-web" / "dist"]
    found = [place.resolve() for place in places if (place / LIBRARY).is_file()]
    if not found:
        sys.exit(f"there is no {LIBRARY} in {places[-1]}: npm install onnxruntime-web@«version», or name it with --ort")
    Handler.ort = found[0]
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", given.port), lambda *rest: Handler(*rest, directory=str(HERE))
    )
    sys.stdout.write(f"http://127.0.0.1:{server.server_address[1]}/\n")
    sys.stdout.flush()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
