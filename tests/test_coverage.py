"""Ten architectures that people bring, each with the techniques and runtimes that once gave trouble with its kind.

The whole table is benchmarks/coverage.py, whose cells these are: an artifact that is built, run and compared.
"""

import importlib.util
import sys

import pytest

from tests.benchmark_files import loaded

LIMIT = 120.0

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def coverage():
    pytest.importorskip("transformers")
    if importlib.util.find_spec("timm") is None or importlib.util.find_spec("torchvision") is None:
        pytest.skip('pip install "optlang-dsl[examples]"')
    before = list(sys.path)
    yield loaded("coverage")
    sys.path[:] = before


# By architecture: what is done, and the runtimes that the result is built for.
CELLS = {
    # Depthwise convolutions; batch norms to fold; float16 after fifty layers.
    "shufflenet_v2_x0_5": {"graph.fold": ("eager", "torchscript"), "prune.channels": ("onnxruntime", "openvino")},
    # Concatenations.
    "unet": {"prune.channels + quant.static": ("onnxruntime", "openvino"), "prune.widths": ("eager",)},
    # A dictionary of answers.
    "ssdlite_backbone": {"none": ("onnxruntime", "torchscript", "eager")},
    # Attention as timm writes it, in float16 and in int8.
    "vit_tiny": {"cast.half": ("onnxruntime",), "quant.smooth": ("openvino",), "quant.static": ("onnxruntime",)},
    # Windows that are rolled.
    "swin_tiny": {"none": ("onnxruntime", "openvino"), "prune.channels": ("torchscript",)},
    # Token ids with a mask; a classifier that answers by attribute.
    "bert": {"quant.dynamic": ("onnxruntime", "openvino"), "training.distill": ("eager",)},
    "distilbert": {"prune.magnitude": ("eager",), "quant.weight_only": ("onnxruntime",)},
    # Weight norm, a convolution with groups, sound.
    "wav2vec2": {"quant.static": ("onnxruntime",), "prune.channels": ("eager",)},
    # Recurrent layers.
    "lstm": {"quant.dynamic": ("openvino",), "prune.units": ("onnxruntime", "eager")},
    # Several inputs, gather and scatter.
    "graph_net": {"prune.channels": ("onnxruntime",), "quant.mixed": ("openvino",)},
}


@pytest.mark.parametrize("architecture", CELLS)
def test_cells_work(coverage, architecture):
    cells = [(row, runtime) for row, runtimes in CELLS[architecture].items() for runtime in runtimes]
    found = dict(coverage.tried(architecture, cells, LIMIT))
    assert set(found) == set(cells)
    wrong = {cell: told.get("traceback") or told["reason"] for cell, told in found.items() if told["state"] != "works"}
    assert not wrong


def test_cells_are_those_that_the_language_allows(coverage):
    from cells import ROWS, cells, declared

    every = set(cells())
    assert {row for row, _ in every} == set(ROWS)
    techniques = {name for row in ROWS.values() for name, _ in row.steps}
    # What differs from channels_to_budget is how long a call takes.
    assert techniques == {*declared("technique")} - {"prune.channels_to_latency"}
    assert ("quant.static", "inductor") in every
    assert not {("quant.static", "torchscript"), ("quant.weight_only", "executorch")} & every


def test_a_process_that_dies_costs_one_cell(coverage, monkeypatch, tmp_path):
    program = tmp_path / "dies.py"
    program.write_text(
        "import json, os, sys\n"
        "for cell in json.load(sys.stdin):\n"
        "    print(json.dumps({'begin': cell}), flush=True)\n"
        "    if cell[0] == 'second':\n"
        "        os._exit(3)\n"
        "    print(json.dumps({'cell': cell, 'state': 'works', 'seconds': 0.0}), flush=True)\n"
    )
    monkeypatch.setattr(coverage, "PROGRAM", program)
    cells = [(name, "here") for name in ("first", "second", "third")]
    found = dict(coverage.tried("any", cells, 20.0))
    assert [found[cell]["state"] for cell in cells] == ["works", "fails", "works"]
    assert "code 3" in found["second", "here"]["reason"]


@pytest.mark.parametrize(("body", "reason"), [
    ("time.sleep(60)", "over 2 s on the clock"),
    ("resource.setrlimit(resource.RLIMIT_CPU, (1, -1))\n        while True: pass", "over 1 s"),
])
def test_a_cell_over_the_limit_fails_and_the_rest_goes_on(coverage, monkeypatch, tmp_path, body, reason):
    program = tmp_path / "late.py"
    program.write_text(
        "import json, resource, sys, time\n"
        "for cell in json.load(sys.stdin):\n"
        "    print(json.dumps({'begin': cell}), flush=True)\n"
        "    if cell[0] == 'first':\n"
        f"        {body}\n"
        "    print(json.dumps({'cell': cell, 'state': 'works', 'seconds': 0.0}), flush=True)\n"
    )
    monkeypatch.setattr(coverage, "PROGRAM", program)
    monkeypatch.setattr(coverage, "WAIT", 2 if "clock" in reason else 60)
    found = dict(coverage.tried("any", [("first", "here"), ("second", "here")], 1.0))
    assert found["first", "here"]["reason"] == reason
    assert found["second", "here"]["state"] == "works"


def test_what_steps_take_too_long_for_every_runtime_is_tried_once(coverage, monkeypatch, tmp_path):
    program = tmp_path / "dies.py"
    program.write_text(
        "import json, os, sys\n"
        "for cell in json.load(sys.stdin):\n"
        "    print(json.dumps({'begin': cell}), flush=True)\n"
        "    if cell[0] == 'first':\n"
        "        print(json.dumps({'alike': True}), flush=True)\n"
        "        os._exit(3)\n"
        "    print(json.dumps({'cell': cell, 'state': 'works', 'seconds': 0.0}), flush=True)\n"
    )
    monkeypatch.setattr(coverage, "PROGRAM", program)
    cells = [("first", "here"), ("second", "here"), ("first", "there")]
    found = dict(coverage.tried("any", cells, 20.0))
    assert [found[cell]["state"] for cell in cells] == ["fails", "works", "fails"]


def test_the_table_counts_cells_and_says_why(coverage):
    def line(architecture, row, runtime, state, **rest):
        return {"architecture": architecture, "row": row, "runtime": runtime, "state": state, "seconds": 0.1, **rest}

    text = coverage.table([
        line("bert", "none", "onnxruntime", "works"), line("bert", "prune.units", "onnxruntime", "nothing"),
        line("lstm", "prune.channels", "onnxruntime", "refused", reason="rnn is an LSTM", help="use units"),
        line("lstm", "none", "openvino", "fails", reason="ValueError: no"),
    ])
    assert "2 architectures, 3 cells: 1 of 3 (33.3 %) work, 1 are refused" in text
    assert "| float32 as it is | 1/1 | 0/1, 1 fails |" in text
    assert "| refused | `prune.channels` | onnxruntime | lstm | rnn is an LSTM |" in text
