"""What an exported artifact for the browser comes with: a page, a module that runs the model, and a server to try it.

The three are templates in the folder `pages`; a name in «» stands for what only the artifact knows.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optlang import resources
from optlang.report.export import checked

RUNTIME = "ort_web"
SERVER = "serve.py"
_TEMPLATES = resources.data("optlang.report.export", "pages")
# The files of onnxruntime-web that a provider needs: the library, and what it compiled from C++.
_FILES = {
    "wasm": ("ort.wasm.min.mjs", "ort-wasm-simd-threaded"),
    "webgpu": ("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify"),
}


def pages(entry: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """The texts of `index.html`, `run.mjs`, `serve.py` and, where examples lie in `folder`, of `examples.json`."""
    about = entry["about"]
    provider = checked.one_of(about.get("provider", "wasm"), _FILES, "a provider")
    library, compiled = _FILES[provider]
    model, *others = sorted((file["name"] for file in entry["files"]), key=lambda name: not name.endswith(".onnx"))
    version = str(about.get("onnxruntime-web", "unknown"))
    known = {
        "version": version if re.fullmatch(r"[\w.+-]+", version) else "unknown",
        "needed": f"{library}, {compiled}.mjs, {compiled}.wasm",
        "library": library, "model": json.dumps(model), "beside": json.dumps(others),
        "threads": str(checked.count(about.get("threads", 1), "threads")), "provider": json.dumps(provider),
        "title": "The exported model",
        "samples": "null" if about.get("samples_a_call") is None
        else str(checked.count(about["samples_a_call"], "samples a call")),
    }
    texts = {
        name: re.sub("«([a-z]+)»", lambda found: known[found[1]], (_TEMPLATES / name).read_text(encoding="utf-8"))
        for name in ("index.html", "run.mjs", SERVER)
    }
    examples = {
        key: _encoded(path) for key in ("inputs", "outputs") if (path := folder / f"example_{key}.npz").is_file()
    }
    if len(examples) == 2:
        texts["examples.json"] = json.dumps(examples)
    return texts


def _encoded(path: Path) -> dict[str, Any]:
    """Arrays by name: type, shape and the bytes in base64, as browsers read them."""
    import numpy

    with numpy.load(path, allow_pickle=False) as stored:
        return {
            name: {
                "type": stored[name].dtype.name, "dims": list(stored[name].shape),
                "base64": base64.b64encode(numpy.ascontiguousarray(stored[name]).tobytes()).decode(),
            }
            for name in stored.files
        }
